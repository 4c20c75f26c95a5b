"""The page's sections on one annotated scan, and on stronger starts."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy import stats

from bench import formatting
from bench.study.arms import ARMS, PROFILES
from bench.study.measures import Record, group_by_arm, read_records
from bench.study.scan_methods import LABELS, NETWORK, PROTOCOLS, START_ROWS
from util.evaluation.method_names import COPIED_MASK, REGISTRATION, UNET

SUMMARISED = ("phantom_scan", "chaost2_scan")
# Of the methods, what a reader of the README must know; the page has all.
SUMMARISED_METHODS = (
    COPIED_MASK,
    UNET,
    REGISTRATION,
    NETWORK,
    f"{UNET}, registration, intensities",
    f"{REGISTRATION}, intensities",
    "registration guides, intensities",
    "adapted, registration, intensities",
    "adapted, U-Net joins, intensities",
    "only adapted, U-Net joins, intensities",
)
_CONFIDENCE = 0.95


def describe_scan_profile(all_records: Sequence[Record]) -> str:
    """Return the section of the records of a profile with `adaptation_steps`.

    It has all rows of the profile's first arm, and a few of the others, if there are any.
    """
    name = all_records[0]["profile"]
    profile = PROFILES[name]
    records = _first_arm(all_records)
    seeds = f"{len(records)} seed{'s' if len(records) > 1 else ''}"
    header = ["method", *records[0]["methods"][NETWORK]["chunks"]["organs"], "mean, chunks"]
    header += ["mean, all slices", "vs. trained, all slices", "time per query"]
    rows = [_row(method, records) for method in LABELS if _having(records, method)]
    return (
        f"## {name}\n"
        "\n"
        f"{profile.meaning}; {profile.n_episodes} episodes, then {profile.adaptation_steps} steps of "
        f"adaptation for all organs jointly; {seeds}. Dice of organs: chunks. `vs. trained`: mean difference "
        "over seeds from the trained network, with its 95 % t-interval; `time per query`: seconds per query "
        "scan, both protocols, with registration or adaptation where the method has it.\n"
        "\n"
        f"{formatting.table(header, rows)}\n"
        "\n"
        f"{_describe_machines(records)}{_compare_arms(all_records)}"
    )


def _first_arm(records: Sequence[Record]) -> Sequence[Record]:
    """Return the records of a profile's first arm that has any."""
    return next(iter(group_by_arm(records).values()))


def describe_starts(records: Sequence[Record]) -> str:
    """Return the section of a profile whose arms are scored in a few rows."""
    name = records[0]["profile"]
    profile = PROFILES[name]
    return (
        f"## {name}\n"
        "\n"
        f"{profile.meaning}; {profile.n_episodes} episodes, then {profile.adaptation_steps} steps where the "
        "network adapts or a U-Net joins.\n"
        f"{_compare_arms(records)}\n"
        f"{_describe_machines(records)}"
    )


def _compare_arms(records: Sequence[Record]) -> str:
    """Return a table for each of `START_ROWS`, with the arms' differences from their twin, if any."""
    twin, arms = PROFILES[records[0]["profile"]].twin, group_by_arm(records)
    if twin not in arms or len(arms) == 1:
        return ""
    settings = "".join(f"- `{arm}`: {ARMS[arm].meaning}\n" for arm in arms)
    parts = [
        "",
        f"{settings}\n`vs. {twin}`: mean difference over seeds from the same row of `{twin}`, with its 95 % "
        "t-interval. `training`: the shortest one, on cores shared with other processes.\n",
    ]
    header = ["arm", "seeds", "chunks", f"vs. {twin}", "all slices", f"vs. {twin}", "training"]
    for method in START_ROWS:
        rows = [_start_row(arm, method, arms, twin) for arm in arms]
        title = LABELS[method][0].upper() + LABELS[method][1:]
        parts.append(f"### {title}\n\n{formatting.table(header, rows)}\n")
    return "\n".join(parts)


def _start_row(arm: str, method: str, arms: Mapping[str, Sequence[Record]], twin: str) -> list[str]:
    """Return an arm's row of one method, with its differences from `twin` over shared seeds."""
    records = arms[arm]
    twins = {record["seed"]: record for record in arms[twin]}
    pairs = [(record, twins[record["seed"]]) for record in records if record["seed"] in twins]
    cells = []
    for protocol in PROTOCOLS:
        difference = ""
        if arm != twin and pairs:
            values, reference = (mean_of(group, method, protocol) for group in zip(*pairs, strict=True))
            difference = _difference(values, reference)
        cells += [f"**{formatting.spread(mean_of(records, method, protocol))}**", difference]
    minutes = min(record["train_seconds"] for record in records) / 60
    return [f"`{arm}`", str(len(records)), *cells, f"{minutes:.1f} min"]


def summarise_scans(results: Path) -> str:
    """Return the README's table.

    It has a column for each dataset and protocol.
    """
    names = [name for name in SUMMARISED if list((results / name).glob("*.json"))]
    by_profile = {name: _first_arm(read_records(results, name)) for name in names}
    header = [""]
    for name, records in by_profile.items():
        seeds = f"{len(records)} seed{'s' if len(records) > 1 else ''}"
        dataset = f"{PROFILES[name].dataset} fold {PROFILES[name].eval_fold}, {seeds}"
        header += [f"{dataset}: organ's slices", "all slices"]
    rows = []
    for method in SUMMARISED_METHODS:
        cells = [
            _cell(mean_of(records, method, protocol), n_seeds=len(records))
            for records in by_profile.values()
            for protocol in PROTOCOLS
        ]
        if any(cells):
            rows.append([LABELS[method], *cells])
    return formatting.table(header, rows)


def _cell(means: Sequence[float], *, n_seeds: int) -> str:
    """Format the spread of a mean, and over how many seeds if not over all."""
    if not means:
        return ""
    n = len(means)
    return formatting.spread(means) + ("" if n == n_seeds else f", {n} seed{'s' if n > 1 else ''}")


def mean_of(records: Sequence[Record], method: str, protocol: str) -> list[float]:
    """Return a method's mean Dice, one for each record that has it."""
    return [record["methods"][method][protocol]["mean"] for record in _having(records, method)]


def paired_interval(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of paired differences and the half-width of its interval.

    It is a 95 % t-interval; None for a single pair.
    """
    differences = [value - other for value, other in zip(values, reference, strict=True)]
    n = len(differences)
    if n < 2:
        return differences[0], None
    quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1))
    return statistics.fmean(differences), quantile * statistics.stdev(differences) / n**0.5


def _having(records: Sequence[Record], method: str) -> list[Record]:
    """Return the records with a method; those made before it was added lack it."""
    return [record for record in records if method in record["methods"]]


def _row(method: str, all_records: Sequence[Record]) -> list[str]:
    records = _having(all_records, method)
    n_seeds = "" if len(records) == len(all_records) else f" ({len(records)} of {len(all_records)} seeds)"
    tables = [record["methods"][method]["chunks"] for record in records]
    organs = [formatting.spread([t["organs"][organ] for t in tables]) for organ in tables[0]["organs"]]
    chunks, all_slices = (mean_of(records, method, protocol) for protocol in ("chunks", "all_slices"))
    is_reference = method == NETWORK
    difference = "" if is_reference else _difference(all_slices, mean_of(records, NETWORK, "all_slices"))
    seconds = [r["method_seconds"][method] for r in records if method in r["method_seconds"]]
    return [
        LABELS[method] + n_seeds,
        *organs,
        f"**{formatting.spread(chunks)}**",
        f"**{formatting.spread(all_slices)}**",
        difference,
        f"{min(seconds):.0f} s" if seconds else "",
    ]


def _difference(values: Sequence[float], reference: Sequence[float]) -> str:
    """Format the mean of paired differences, with its interval if there are several."""
    mean, half_width = paired_interval(values, reference)
    return f"{mean:+.3f}" + ("" if half_width is None else f" ± {half_width:.3f}")


def _describe_machines(records: Sequence[Record]) -> str:
    machines = sorted({f"{r['machine']['processor']}, threads: {r['threads']}" for r in records})
    return f"Measured on {'; '.join(machines)}.\n"
