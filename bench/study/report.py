"""Put the study's records into one page with curves.

`python -m bench.study.report` does so alone.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.study.arms import ABLATION, ARMS, PRIOR, PROFILES, RECIPE, START, WHOLE, Profile
from bench.study.curves import plot_curves, plot_priors
from bench.study.measures import (
    Record,
    average_supports,
    by_arm,
    compare_ends,
    compare_to_start,
    is_alive,
    measure_scatter,
    measure_silence,
    read_records,
)
from bench.study.trial import RECORDED, add_results_option
from util.io.files import write_text

INTRODUCTION = Path(__file__).with_name("introduction.md")
SUMMARISED = ("phantom", "chaost2")
GROUPS = {
    WHOLE: "Whole recipes",
    ABLATION: "Parts of the network switched off",
    PRIOR: "Forms of the prior",
    RECIPE: "One change to the training",
}
PRIOR_METRICS = {
    "raw_prior_foreground": "raw foreground's area",
    "raw_prior_background": "raw background's",
    "prior_foreground": "refined foreground's area",
    "prior_background": "refined background's",
    "prior_dice_foreground": "foreground's Dice",
    "prior_dice_by_chance": "by chance",
}


def main() -> None:
    """Write the page of a folder of records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_results_option(parser)
    write_page(parser.parse_args().results)


def write_page(results: Path) -> None:
    """Write the page of a folder of records, beside it.

    Remarks that lie there in `conclusions.md` come first.
    """
    records = {name: found for name in PROFILES if (found := read_records(results, name))}
    sections = [describe_profile(PROFILES[name], found) for name, found in records.items()]
    for name, found in records.items():
        title = f"{PROFILES[name].dataset}, fold {PROFILES[name].eval_fold}"
        plot_curves(found, results.parent / "plots" / f"{name}.png", title=title)
        if _compares_priors(found):
            plot_priors(_choose_priors(by_arm(found)), results.parent / "plots" / f"{name}_priors.png")
    remarks = results.parent / "conclusions.md"
    conclusions = remarks.read_text(encoding="utf-8") if remarks.is_file() else ""
    page = results.parent / "RESULTS.md"
    write_text(
        page, "\n".join([INTRODUCTION.read_text(encoding="utf-8"), conclusions, *sections]).rstrip() + "\n"
    )
    print(f"wrote {page}: {sum(map(len, records.values()))} trials")


def summarise_recipes() -> str:
    """Return the README's table of recipes beside what needs no training."""
    of_profile = {name: by_arm(records) for name in SUMMARISED if (records := read_records(RECORDED, name))}
    header = ["mean Dice", *(_name_column(name, of_arm) for name, of_arm in of_profile.items())]
    rows: dict[str, list[str]] = defaultdict(list)
    for of_arm in of_profile.values():
        with_baselines = [r for found in of_arm.values() for r in found if "baselines" in r]
        for method in ("untrained", "untrained cosine", "copied support mask"):
            rows[method].append(_tell_spread(r["baselines"][method]["mean"] for r in with_baselines))
        for arm, label in (("published", "published rate"), ("strong", "`recipe=strong`")):
            rows[label].append(_tell_dice_and_time(of_arm[arm]) if arm in of_arm else "")
    return _format_table(header, [[name, *cells] for name, cells in rows.items()])


def summarise_default() -> str:
    """Return the README's table of what two commands without arguments give."""
    records = read_records(RECORDED, "phantom_default")
    rows = _list_baselines([record for record in records if "baselines" in record])
    organs = [_tell_spread(r["chunks"]["organs"][organ] for r in records) for organ in _list_organs(records)]
    mean = _tell_spread(record["chunks"]["mean"] for record in records)
    trained = f"**trained, {records[0]['n_steps']} steps, no label**"
    return _format_table(["", *_list_organs(records), "mean"], [*rows, [trained, *organs, f"**{mean}**"]])


def _tell_dice_and_time(records: Sequence[Record]) -> str:
    minutes = min(record["train_seconds"] for record in records) / 60
    return f"**{_tell_spread(record['chunks']['mean'] for record in records)}**, {minutes:.0f} min"


def _name_column(name: str, of_arm: Mapping[str, Sequence[Record]]) -> str:
    profile = PROFILES[name]
    n_seeds = min(len(of_arm.get(arm, ())) for arm in ("published", "strong"))
    seeds = "1 seed" if n_seeds == 1 else f"{n_seeds} seeds"
    return f"{profile.dataset} fold {profile.eval_fold}, {profile.n_episodes} episodes, {seeds}"


def describe_profile(profile: Profile, records: Sequence[Record]) -> str:
    """Return a profile's section."""
    name = records[0]["profile"]
    of_arm = by_arm(records)
    length = f"{profile.n_episodes} episodes a training, {_tell_seeds(records)}"
    parts = [f"## {name}\n\n{profile.meaning}; {length}.{_describe_scatter(of_arm)}\n"]
    for group, title in GROUPS.items():
        rows = [_describe_arm(arm, of_arm) for arm in of_arm if ARMS[arm].group == group]
        if rows:
            header = [
                "arm",
                "what",
                *_list_organs(records),
                "mean",
                "all slices",
                "every support",
                "to the start",
                "silent",
                "time",
            ]
            parts.append(f"### {title}\n\n{_format_table(header, rows)}\n")
    parts += [_describe_priors(name, of_arm), _describe_baselines(of_arm), _describe_test_time(of_arm)]
    parts.append(f"![Dice against episodes](plots/{name}.png)\n")
    parts.append(_describe_provenance(records))
    return "\n".join(part for part in parts if part)


def _describe_scatter(of_arm: Mapping[str, Sequence[Record]]) -> str:
    deviation, freedom = measure_scatter(of_arm)
    if not freedom:
        return ""
    n = min(map(len, of_arm.values()))
    least = 2 * deviation * (2 / n) ** 0.5
    return (
        f" Seeds of one arm differ in `every support` with a standard deviation of {deviation:.3f} (pooled, "
        f"{freedom} degrees of freedom): two arms of {n} seeds each must be {least:.2f} apart before their "
        "difference is more than twice its own standard error."
    )


def _describe_arm(arm: str, of_arm: Mapping[str, Sequence[Record]]) -> list[str]:
    records = of_arm[arm]
    organs = [_tell_spread(r["chunks"]["organs"][organ] for r in records) for organ in _list_organs(records)]
    minutes = min(record["train_seconds"] for record in records) / 60
    to_start = "" if arm == START else compare_to_start(records, of_arm.get(START, ()))
    return [
        f"`{arm}`",
        ARMS[arm].meaning,
        *organs,
        _tell_spread(r["chunks"]["mean"] for r in records),
        _tell_spread(r["all_slices"]["mean"] for r in records),
        f"**{_tell_spread(map(average_supports, records))}**",
        to_start,
        f"{statistics.fmean(map(measure_silence, records)):.0%}",
        f"{minutes:.1f} min",
    ]


def _choose_priors(of_arm: Mapping[str, Sequence[Record]]) -> dict[str, Sequence[Record]]:
    """Return the arms that the prior's masks are told of."""
    return {name: found for name, found in of_arm.items() if ARMS[name].group in (WHOLE, PRIOR)}


def _compares_priors(records: Iterable[Record]) -> bool:
    """Say whether there are arms of several forms of the prior, worth a picture."""
    return any(ARMS[record["arm"]].group == PRIOR for record in records)


def _describe_priors(profile: str, of_arm: Mapping[str, Sequence[Record]]) -> str:
    """Tell what each form's masks were in the first tenth and in the last quarter of the training."""
    rows = []
    for arm, records in _choose_priors(of_arm).items():
        cells = [f"`{arm}`"]
        for metric in PRIOR_METRICS:
            ends = [compare_ends(record["training"][metric]["values"]) for record in records]
            cells.append(" → ".join(f"{statistics.fmean(values):.2f}" for values in zip(*ends, strict=True)))
        rows.append([*cells, f"{sum(map(is_alive, records))} of {len(records)}"])
    if not rows:
        return ""
    is_drawn = _compares_priors(record for records in of_arm.values() for record in records)
    picture = f"\n![Prior masks against episodes](plots/{profile}_priors.png)\n" if is_drawn else ""
    return (
        "### The prior masks during training\n\nMasks against the true query masks: mean over the first "
        "tenth of the training → over its last quarter. `by chance` is the Dice that a mask of that area "
        "would reach anywhere. `alive`: trainings in whose last quarter the refined foreground masks cover "
        "1 to 99 % and have at least one and a half times that Dice.\n\n"
        f"{_format_table(['arm', *PRIOR_METRICS.values(), 'alive'], rows)}\n{picture}"
    )


def _describe_baselines(of_arm: Mapping[str, Sequence[Record]]) -> str:
    records = [record for found in of_arm.values() for record in found if "baselines" in record]
    if not records:
        return ""
    header = ["method", *_list_organs(records), "mean"]
    return f"### Without training\n\n{_format_table(header, _list_baselines(records))}\n"


def _list_baselines(records: Sequence[Record]) -> list[list[str]]:
    rows = []
    found = [record["baselines"] for record in records]
    for method in sorted(found[0], key=lambda method: statistics.fmean(of[method]["mean"] for of in found)):
        tables = [of[method] for of in found]
        organs = [_tell_spread(table["organs"][organ] for table in tables) for organ in _list_organs(records)]
        rows.append([method, *organs, _tell_spread(table["mean"] for table in tables)])
    return rows


def _describe_test_time(of_arm: Mapping[str, Sequence[Record]]) -> str:
    rows = []
    for arm, records in of_arm.items():
        for choice in records[0].get("test_time", ()):
            cells = []
            for protocol in ("chunks", "all_slices"):
                found = [(r["test_time"][choice][protocol]["mean"], r[protocol]["mean"]) for r in records]
                changes = statistics.fmean(value - plain for value, plain in found)
                cells.append(f"{_tell_spread(value for value, _ in found)}, {changes:+.3f}")
            rows.append([f"`{arm}`", choice, *cells])
    if not rows:
        return ""
    return (
        "### Choices at test time\n\nMean Dice, and the change to the same network without.\n\n"
        f"{_format_table(['arm', 'choice', 'chunks', 'all slices'], rows)}\n"
    )


def _describe_provenance(records: Sequence[Record]) -> str:
    machines = {f"{r['machine']['processor']}, {r['threads']} threads a trial" for r in records}
    versions = {f"torch {record['versions']['torch']}" for record in records}
    return f"On {'; '.join(sorted(machines))}; {', '.join(sorted(versions))}.\n"


def _list_organs(records: Sequence[Record]) -> list[str]:
    return list(records[0]["chunks"]["organs"])


def _tell_seeds(records: Sequence[Record]) -> str:
    counts = {len(found) for found in by_arm(records).values()}
    low, high = min(counts), max(counts)
    return f"{low} seeds an arm" if low == high else f"{low} to {high} seeds an arm"


def _tell_spread(values: Iterable[float]) -> str:
    found = list(values)
    if len(found) == 1:
        return f"{found[0]:.3f}"
    return f"{statistics.fmean(found):.3f} ({min(found):.3f}-{max(found):.3f})"


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
