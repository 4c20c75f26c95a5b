"""Statistics of the study's records: means, differences, scatter."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.study.arms import ARMS
from bench.study.trial import read_record

MIN_LEARNT_DICE = 0.05  # trainings below it are excluded from the scatter

Record = Mapping[str, Any]


def read_records(results: Path, profile: str) -> list[Record]:
    """Read a profile's records by arm and seed; prints which are invalid."""
    records = []
    for path in (results / profile).glob("*.json"):
        record = read_record(path)
        if record is None:
            print(f"{path}: damaged or of other settings; delete it or run the study again")
        else:
            records.append(record)
    order = list(ARMS)
    return sorted(records, key=lambda record: (order.index(record["arm"]), record["seed"]))


def group_by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Group records by arm, in their order."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["arm"]].append(record)
    return dict(groups)


def support_mean(record: Record) -> float:
    """Return the mean Dice over all supports."""
    return statistics.fmean(record["every_support"].values())


def background_only_share(record: Record) -> float:
    """Return the share of log lines in which no prediction has foreground."""
    losses = record["training"]["alignment_loss"]["values"]
    return statistics.fmean(loss == 0 for loss in losses)


def format_difference(records: Sequence[Record], reference: Sequence[Record]) -> str:
    """Format the mean difference to the reference over shared seeds, if any."""
    by_seed = {record["seed"]: support_mean(record) for record in reference}
    differences = [support_mean(r) - by_seed[r["seed"]] for r in records if r["seed"] in by_seed]
    return f"{statistics.fmean(differences):+.3f} ({len(differences)})" if differences else ""


def pooled_deviation(arms: Mapping[str, Sequence[Record]]) -> tuple[float, int]:
    """Return the pooled standard deviation of `support_mean` over seeds.

    Arms with a training that learnt nothing are excluded.

    Returns:
        The deviation and its degrees of freedom; (0, 0) if no arm has two seeds.
    """
    squares, freedom = 0.0, 0
    for records in arms.values():
        values = [support_mean(record) for record in records]
        if len(values) > 1 and min(values) > MIN_LEARNT_DICE:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    return ((squares / freedom) ** 0.5, freedom) if freedom else (0.0, 0)


def has_informative_prior(record: Record) -> bool:
    """Return whether the refined foreground masks end better than chance."""
    area, dice, chance = (
        early_and_late_means(record["training"][metric]["values"])[1]
        for metric in ("prior_foreground", "prior_dice_foreground", "prior_dice_by_chance")
    )
    return 0.01 <= area <= 0.99 and dice >= 1.5 * chance


def early_and_late_means(values: Sequence[float]) -> tuple[float, float]:
    """Return the means of the first tenth and of the last quarter."""
    n = len(values)
    return statistics.fmean(values[: max(1, n // 10)]), statistics.fmean(values[-max(1, n // 4) :])
