"""What the study's records say: means, differences, scatter."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.study.arms import ARMS
from bench.study.trial import read_record

LEAST_DICE = 0.05  # a training that ends below it has not learnt, and says nothing of scatter

Record = Mapping[str, Any]


def read_records(results: Path, profile: str) -> list[Record]:
    """Read a profile's records.

    Those that are damaged or of other settings are left out and named.
    """
    records = []
    for path in sorted((results / profile).glob("*.json")):
        record = read_record(path)
        if record is None:
            print(f"{path}: is damaged or was made with other settings; run the study again or delete it")
        else:
            records.append(record)
    order = list(ARMS)
    return sorted(records, key=lambda record: (order.index(record["arm"]), record["seed"]))


def by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Gather records by arm, in the arms' order."""
    gathered: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        gathered[record["arm"]].append(record)
    return dict(gathered)


def average_supports(record: Record) -> float:
    """Return the mean Dice over all supports."""
    return statistics.fmean(record["every_support"].values())


def measure_silence(record: Record) -> float:
    """Return the share of a training whose log shows no target predicted."""
    losses = record["training"]["alignment_loss"]["values"]
    return statistics.fmean(loss == 0 for loss in losses)


def compare_to_start(records: Sequence[Record], start: Sequence[Record]) -> str:
    """Say how much better an arm is than the common start.

    With the same seeds; empty where they share none.
    """
    of_start = {record["seed"]: average_supports(record) for record in start}
    found = [average_supports(r) - of_start[r["seed"]] for r in records if r["seed"] in of_start]
    return f"{statistics.fmean(found):+.3f} ({len(found)})" if found else ""


def measure_scatter(of_arm: Mapping[str, Sequence[Record]]) -> tuple[float, int]:
    """Return by how much seeds of one arm differ.

    The pooled standard deviation of `average_supports` and its degrees of freedom, over arms whose trainings
    have all learnt something. With no two seeds of any arm it is (0, 0).
    """
    squares, freedom = 0.0, 0
    for records in of_arm.values():
        values = [average_supports(record) for record in records]
        if len(values) > 1 and min(values) > LEAST_DICE:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    return ((squares / freedom) ** 0.5, freedom) if freedom else (0.0, 0)


def is_alive(record: Record) -> bool:
    """Say whether a training's refined foreground masks ended alive.

    That is neither empty nor full, and better than chance.
    """
    area, dice, by_chance = (
        compare_ends(record["training"][metric]["values"])[1]
        for metric in ("prior_foreground", "prior_dice_foreground", "prior_dice_by_chance")
    )
    return 0.01 <= area <= 0.99 and dice >= 1.5 * by_chance


def compare_ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the means of the first tenth and of the last quarter."""
    n = len(values)
    return statistics.fmean(values[: max(1, n // 10)]), statistics.fmean(values[-max(1, n // 4) :])
