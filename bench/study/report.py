"""Put the study's records into one page with curves.

`python -m bench.study.report` does so alone.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.study.arms import ABLATION, ARMS, PRIOR, PROFILES, RECIPE, START, WHOLE, Profile
from bench.study.curves import plot_curves
from bench.study.trial import RESULTS_DIR, key_of
from util.files import write_text

PAGE = RESULTS_DIR.parent / "RESULTS.md"
PLOTS_DIR = RESULTS_DIR.parent / "plots"
REMARKS = RESULTS_DIR.parent / "conclusions.md"
SUMMARISED = ("phantom", "chaost2")
GROUPS = {
    WHOLE: "Whole recipes",
    ABLATION: "Parts of the network switched off",
    PRIOR: "Forms of the prior",
    RECIPE: "One change to the training",
}

HEAD = """# Does it learn? The study

Networks are trained from scratch on supervoxels alone, and scored with manual labels of scans that were held
out of training. Every arm is one change to a common start, plays the same number of episodes and is trained
with several seeds. Everything is made again by

```bash
bash bench/study/run.sh              # the quick form, on two CPU cores
bash bench/study/run.sh full         # phantom, chaost2_choice and chaost2
```

Trials that are finished are kept, so the same command goes on after an interruption. Dice is the mean over
the query volumes of an organ, then over organs; `every support` is its mean over all supports of the fold,
the least noisy figure, and what choices are made by. Figures are means over seeds, with the lowest and the
highest in brackets. `to the start` is the mean difference to the common start with the same seeds, with the
standard deviation of these differences in brackets where there are several. `silent` is the share of the
training's twentieths in which not one episode's query was given a target: the alignment loss is zero then.
"""

Record = Mapping[str, Any]


def main() -> None:
    """Write the page from all records that were made with the present settings."""
    records = {name: read_records(name) for name in PROFILES}
    sections = [describe_profile(PROFILES[name], found) for name, found in records.items() if found]
    for name, found in records.items():
        if found:
            profile = PROFILES[name]
            title = f"{profile.dataset}, fold {profile.eval_fold}"
            plot_curves(found, PLOTS_DIR / f"{name}.png", title=title)
    conclusions = REMARKS.read_text(encoding="utf-8") if REMARKS.is_file() else ""
    write_text(PAGE, "\n".join([HEAD, conclusions, *sections]).rstrip() + "\n")
    print(f"wrote {PAGE}: {sum(map(len, records.values()))} trials")


def summary() -> str:
    """Return the README's table: recipes beside what needs no training."""
    of_profile = {name: by_arm(records) for name in SUMMARISED if (records := read_records(name))}
    header = ["mean Dice", *(_summary_title(name, of_arm) for name, of_arm in of_profile.items())]
    rows: dict[str, list[str]] = defaultdict(list)
    for of_arm in of_profile.values():
        with_baselines = [r for found in of_arm.values() for r in found if "baselines" in r]
        for method in ("untrained", "untrained cosine", "copied support mask"):
            rows[method].append(_spread(r["baselines"][method]["mean"] for r in with_baselines))
        for arm in ("published", "strong"):
            rows[f"`recipe={arm}`"].append(_dice_and_time(of_arm[arm]) if arm in of_arm else "")
    return _table(header, [[name, *cells] for name, cells in rows.items()])


def _dice_and_time(records: Sequence[Record]) -> str:
    minutes = statistics.fmean(record["train_seconds"] for record in records) / 60
    return f"**{_spread(record['chunks']['mean'] for record in records)}**, {minutes:.0f} min"


def _summary_title(name: str, of_arm: Mapping[str, Sequence[Record]]) -> str:
    profile = PROFILES[name]
    n_seeds = min(len(of_arm.get(arm, ())) for arm in ("published", "strong"))
    seeds = "1 seed" if n_seeds == 1 else f"{n_seeds} seeds"
    return f"{profile.dataset} fold {profile.eval_fold}, {profile.n_episodes} episodes, {seeds}"


def read_records(profile: str) -> list[Record]:
    """Read a profile's records; those of other settings are left out and named."""
    records = []
    for path in sorted((RESULTS_DIR / profile).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        arm, seed = record["arm"], record["seed"]
        if arm in ARMS and record["key"] == key_of(profile, arm, seed):
            records.append(record)
        else:
            print(f"{path}: was made with other settings; run the study again or delete it")
    order = list(ARMS)
    return sorted(records, key=lambda record: (order.index(record["arm"]), record["seed"]))


def describe_profile(profile: Profile, records: Sequence[Record]) -> str:
    """Return a profile's section."""
    name = records[0]["profile"]
    of_arm = by_arm(records)
    episodes = f"{profile.n_episodes} episodes"
    parts = [f"## {name}\n\n{profile.meaning}; {episodes} a training, {_seeds(records)}.\n"]
    for group, title in GROUPS.items():
        rows = [_row(arm, of_arm) for arm in of_arm if ARMS[arm].group == group]
        if rows:
            header = [
                "arm",
                "what",
                *_organs(records),
                "mean",
                "all slices",
                "every support",
                "to the start",
                "silent",
                "time",
            ]
            parts.append(f"### {title}\n\n{_table(header, rows)}\n")
    parts += [_priors(of_arm), _baselines(of_arm), _test_time(of_arm)]
    parts.append(f"![Dice against steps](plots/{name}.png)\n")
    parts.append(_provenance(records))
    return "\n".join(part for part in parts if part)


def by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Gather records by arm, in the arms' order."""
    gathered: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        gathered[record["arm"]].append(record)
    return dict(gathered)


def every_support(record: Record) -> float:
    """Return the mean Dice over all supports."""
    return statistics.fmean(record["every_support"].values())


def silent_share(record: Record) -> float:
    """Return the share of a training whose log shows no target predicted."""
    losses = record["training"]["alignment_loss"]["values"]
    return statistics.fmean(loss == 0 for loss in losses)


def difference(records: Sequence[Record], start: Sequence[Record]) -> str:
    """Say how much better an arm is than the common start.

    With the same seeds; empty where they share none.
    """
    of_start = {record["seed"]: every_support(record) for record in start}
    found = [every_support(r) - of_start[r["seed"]] for r in records if r["seed"] in of_start]
    if not found:
        return ""
    spread = f" (±{statistics.stdev(found):.3f})" if len(found) > 1 else ""
    return f"{statistics.fmean(found):+.3f}{spread}"


def _row(arm: str, of_arm: Mapping[str, Sequence[Record]]) -> list[str]:
    records = of_arm[arm]
    organs = [_spread(r["chunks"]["organs"][organ] for r in records) for organ in _organs(records)]
    minutes = statistics.fmean(record["train_seconds"] for record in records) / 60
    to_start = "" if arm == START else difference(records, of_arm.get(START, ()))
    return [
        f"`{arm}`",
        ARMS[arm].meaning,
        *organs,
        _spread(r["chunks"]["mean"] for r in records),
        _spread(r["all_slices"]["mean"] for r in records),
        f"**{_spread(map(every_support, records))}**",
        to_start,
        f"{statistics.fmean(map(silent_share, records)):.0%}",
        f"{minutes:.1f} min",
    ]


def _priors(of_arm: Mapping[str, Sequence[Record]]) -> str:
    """Tell what each form's masks were in the first tenth and in the last quarter of the training."""
    rows = []
    for arm in (START, *(name for name in of_arm if ARMS[name].group == PRIOR or name == "strong")):
        if arm not in of_arm:
            continue
        cells = [f"`{arm}`"]
        for metric in (
            "prior_foreground",
            "prior_background",
            "prior_dice_foreground",
            "prior_dice_by_chance",
        ):
            ends = [_ends(record["training"][metric]["values"]) for record in of_arm[arm]]
            cells.append(" → ".join(f"{statistics.fmean(values):.2f}" for values in zip(*ends, strict=True)))
        rows.append(cells)
    if len(rows) < 2:
        return ""
    header = ["arm", "foreground's area", "background's area", "foreground's Dice", "by chance"]
    return (
        "### The prior masks during training\n\nRefined masks against the true query masks: mean over the "
        "first tenth of the training → over its last quarter. `by chance` is what a mask of that area would "
        "reach anywhere.\n\n"
        f"{_table(header, rows)}\n"
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    n = len(values)
    return statistics.fmean(values[: max(1, n // 10)]), statistics.fmean(values[-max(1, n // 4) :])


def _baselines(of_arm: Mapping[str, Sequence[Record]]) -> str:
    records = [record for found in of_arm.values() for record in found if "baselines" in record]
    if not records:
        return ""
    rows = [
        [
            method,
            *(
                _spread(r["baselines"][method]["organs"][organ] for r in records)
                for organ in _organs(records)
            ),
            _spread(r["baselines"][method]["mean"] for r in records),
        ]
        for method in records[0]["baselines"]
    ]
    return f"### Without training\n\n{_table(['method', *_organs(records), 'mean'], rows)}\n"


def _test_time(of_arm: Mapping[str, Sequence[Record]]) -> str:
    rows = []
    for arm, records in of_arm.items():
        for choice in records[0].get("test_time", ()):
            cells = []
            for protocol in ("chunks", "all_slices"):
                found = [(r["test_time"][choice][protocol]["mean"], r[protocol]["mean"]) for r in records]
                changes = statistics.fmean(value - plain for value, plain in found)
                cells.append(f"{_spread(value for value, _ in found)}, {changes:+.3f}")
            rows.append([f"`{arm}`", choice, *cells])
    if not rows:
        return ""
    return (
        "### Choices at test time\n\nMean Dice, and the change to the same network without.\n\n"
        f"{_table(['arm', 'choice', 'chunks', 'all slices'], rows)}\n"
    )


def _provenance(records: Sequence[Record]) -> str:
    machines = {f"{r['machine']['processor']}, {r['threads']} threads a trial" for r in records}
    versions = {f"torch {record['versions']['torch']}" for record in records}
    return f"On {'; '.join(sorted(machines))}; {', '.join(sorted(versions))}.\n"


def _organs(records: Sequence[Record]) -> list[str]:
    return list(records[0]["chunks"]["organs"])


def _seeds(records: Sequence[Record]) -> str:
    counts = {len(found) for found in by_arm(records).values()}
    low, high = min(counts), max(counts)
    return f"{low} seeds an arm" if low == high else f"{low} to {high} seeds an arm"


def _spread(values: Iterable[float]) -> str:
    found = list(values)
    if len(found) == 1:
        return f"{found[0]:.3f}"
    return f"{statistics.fmean(found):.3f} ({min(found):.3f}-{max(found):.3f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
