"""Build the study's page from its records: `python -m bench.study.study_page`."""

import argparse
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bench import formatting
from bench.study.arms import ABLATION, ARMS, PRIOR, PROFILES, RECIPE, REFERENCE, WHOLE, Profile
from bench.study.curves import plot_curves, plot_priors
from bench.study.measures import (
    Record,
    background_only_share,
    early_and_late_means,
    format_difference,
    group_by_arm,
    has_informative_prior,
    pooled_deviation,
    read_records,
    support_mean,
)
from bench.study.scan_report import describe_scan_profile, describe_starts
from bench.study.trial import DiceTable, add_results_option
from util.io.files import write_text

INTRODUCTION = Path(__file__).with_name("introduction.md")
GROUPS = {
    WHOLE: "Whole recipes",
    ABLATION: "Ablations of the network",
    PRIOR: "Forms of the prior",
    RECIPE: "Single changes to the training",
}
PRIOR_METRICS = {
    "raw_prior_foreground": "raw foreground area",
    "raw_prior_background": "raw background area",
    "prior_foreground": "refined foreground area",
    "prior_background": "refined background area",
    "prior_dice_foreground": "foreground Dice",
    "prior_dice_by_chance": "chance Dice",
}
# Names in the records -> names on the page.
TEST_TIME_LABELS = {"5 query copies": "test-time augmentation, 5 copies", "clean-up": "largest component"}


def main() -> None:
    """Write the page of a results folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_results_option(parser)
    write_page(parser.parse_args().results)


def write_page(results: Path) -> None:
    """Write the page next to a results folder, with `conclusions.md` from there."""
    all_records = {name: records for name in PROFILES if (records := read_records(results, name))}
    for name, records in all_records.items():
        if PROFILES[name].adaptation_steps:
            continue
        title = f"{PROFILES[name].dataset}, fold {PROFILES[name].eval_fold}"
        plot_curves(records, results.parent / "plots" / f"{name}.png", title=title)
        if _compares_priors(records):
            plot_priors(_prior_arms(records), results.parent / "plots" / f"{name}_priors.png")
    conclusions = results.parent / "conclusions.md"
    parts = [path.read_text(encoding="utf-8") for path in (INTRODUCTION, conclusions) if path.is_file()]
    page = results.parent / "RESULTS.md"
    for name, records in all_records.items():
        parts.append(_describe(PROFILES[name])(records))
    write_text(page, "\n".join(parts).rstrip() + "\n")
    print(f"wrote {page}: {sum(map(len, all_records.values()))} trials")


def _describe(profile: Profile) -> Callable[[Sequence[Record]], str]:
    """Return what writes the section of a profile."""
    if not profile.has_all_rows:
        return describe_starts
    return describe_scan_profile if profile.adaptation_steps else describe_profile


def describe_profile(records: Sequence[Record]) -> str:
    """Return the section of a profile's records."""
    name = records[0]["profile"]
    profile, arms = PROFILES[name], group_by_arm(records)
    counts = [len(group) for group in arms.values()]
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
    seeds += " seed" if max(counts) == 1 else " seeds"
    length = f"{profile.n_episodes} episodes per training, {seeds} per arm"
    parts = [f"## {name}\n\n{profile.meaning}; {length}.{_describe_scatter(arms)}\n"]
    header = ["arm", "setting", *_organs(records), "mean", "all slices", "every support"]
    header += ["vs. start", "background only", "time"]
    for group, title in GROUPS.items():
        rows = [_arm_row(arm, arms) for arm in arms if ARMS[arm].group == group]
        if rows:
            parts.append(f"### {title}\n\n{formatting.table(header, rows)}\n")
    parts.append(_describe_priors(records))
    baselines = _baseline_rows(records)
    if baselines:
        table = formatting.table(["method", *_organs(records), "mean"], baselines)
        parts.append(f"### Untrained baselines\n\n{table}\n")
    parts.append(_describe_test_time(arms))
    parts.append(f"![Dice against episodes](plots/{name}.png)\n")
    machines = sorted({f"{r['machine']['processor']}, threads per trial: {r['threads']}" for r in records})
    versions = sorted({f"torch {record['versions']['torch']}" for record in records})
    parts.append(f"Measured on {'; '.join(machines)}; {', '.join(versions)}.\n")
    return "\n".join(part for part in parts if part)


def _describe_scatter(arms: Mapping[str, Sequence[Record]]) -> str:
    deviation, freedom = pooled_deviation(arms)
    if not freedom:
        return ""
    n = min(map(len, arms.values()))
    return (
        f" The pooled standard deviation of `every support` over seeds is {deviation:.3f} (degrees of "
        f"freedom: {freedom}): a difference between two arms of {n} seeds each exceeds twice its standard "
        f"error from {2 * deviation * (2 / n) ** 0.5:.2f}."
    )


def _arm_row(arm: str, arms: Mapping[str, Sequence[Record]]) -> list[str]:
    records = arms[arm]
    return [
        f"`{arm}`",
        ARMS[arm].meaning,
        *_dice_cells([r["chunks"] for r in records]),
        formatting.spread(r["all_slices"]["mean"] for r in records),
        f"**{formatting.spread(map(support_mean, records))}**",
        "" if arm == REFERENCE else format_difference(records, arms.get(REFERENCE, ())),
        f"{statistics.fmean(map(background_only_share, records)):.0%}",
        f"{_min_minutes(records):.1f} min",
    ]


def _prior_arms(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the arms whose prior masks are described."""
    return {arm: group for arm, group in group_by_arm(records).items() if ARMS[arm].group in (WHOLE, PRIOR)}


def _compares_priors(records: Iterable[Record]) -> bool:
    """Return whether several forms of the prior are compared, which are then plotted."""
    return any(ARMS[record["arm"]].group == PRIOR for record in records)


def _describe_priors(records: Sequence[Record]) -> str:
    rows = []
    for arm, group in _prior_arms(records).items():
        cells = [f"`{arm}`"]
        for metric in PRIOR_METRICS:
            means = [early_and_late_means(record["training"][metric]["values"]) for record in group]
            cells.append(" → ".join(f"{statistics.fmean(values):.2f}" for values in zip(*means, strict=True)))
        rows.append([*cells, f"{sum(map(has_informative_prior, group))} of {len(group)}"])
    if not rows:
        return ""
    plot = f"\n![Prior masks against episodes](plots/{records[0]['profile']}_priors.png)\n"
    return (
        "### The prior masks during training\n"
        "\n"
        "Masks compared with the true query masks: mean over the first tenth of the training → over its "
        "last quarter. `chance Dice` is the expected Dice of a randomly placed mask of the same area. "
        "`informative`: trainings in whose last quarter the refined foreground masks cover 1 to 99 % of "
        "the image and have at least 1.5 times the chance Dice.\n"
        "\n"
        f"{formatting.table(['arm', *PRIOR_METRICS.values(), 'informative'], rows)}\n"
        f"{plot if _compares_priors(records) else ''}"
    )


def _baseline_rows(records: Sequence[Record]) -> list[list[str]]:
    """Return a row of Dice for each untrained method, the worst first."""
    baselines = [record["baselines"] for record in records if "baselines" in record]
    tables = {method: [seed[method] for seed in baselines] for method in (baselines[0] if baselines else ())}
    methods = sorted(tables, key=lambda method: statistics.fmean(t["mean"] for t in tables[method]))
    return [[method, *_dice_cells(tables[method])] for method in methods]


def _describe_test_time(arms: Mapping[str, Sequence[Record]]) -> str:
    rows = []
    for arm, records in arms.items():
        for name in records[0].get("test_time", ()):
            cells = []
            for protocol in ("chunks", "all_slices"):
                values = [r["test_time"][name][protocol]["mean"] for r in records]
                change = statistics.fmean(values) - statistics.fmean(r[protocol]["mean"] for r in records)
                cells.append(f"{formatting.spread(values)}, {change:+.3f}")
            rows.append([f"`{arm}`", TEST_TIME_LABELS.get(name, name), *cells])
    if not rows:
        return ""
    table = formatting.table(["arm", "setting", "chunks", "all slices"], rows)
    return f"### Test-time settings\n\nMean Dice, and the change from the same network without.\n\n{table}\n"


def _organs(records: Sequence[Record]) -> list[str]:
    return list(records[0]["chunks"]["organs"])


def _dice_cells(tables: Sequence[DiceTable]) -> list[str]:
    """Format the Dice of each organ, and the mean, over seeds."""
    organs = [formatting.spread(t["organs"][organ] for t in tables) for organ in tables[0]["organs"]]
    return [*organs, formatting.spread(t["mean"] for t in tables)]


def _min_minutes(records: Sequence[Record]) -> float:
    return min(record["train_seconds"] for record in records) / 60


if __name__ == "__main__":
    main()
