"""Compare the training of a snapshot with its evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from util.engine.snapshots import Snapshot
from util.engine.training_choice import DEFAULT_FOLDS


def find_mismatches(
    snapshot: Snapshot,
    requested: Mapping[str, Any],
    held_out: Sequence[int] = (),
    *,
    supports: Mapping[str, int] | None = None,
) -> list[str]:
    """Describe the differences between a snapshot's training and an evaluation.

    Args:
        snapshot: settings that its configuration lacks count as None.
        requested: the settings to compare, among them `dataset`. Other folds are remarked on, not warned of,
            if none of the scans they train on is in `held_out`.
        held_out: ids of the scans to evaluate, on none of which it should have been trained.
        supports: organ -> id of its support scan.

    Returns:
        One line per difference.
    """
    trained = {"folds": DEFAULT_FOLDS, **snapshot.config}
    differing = {name: value for name, value in requested.items() if trained.get(name) != value}
    lines = [
        f"warning: the snapshot was trained with {name}={trained.get(name)}, not {value}"
        for name, value in differing.items()
    ]
    if list(differing) == ["folds"] and not set(held_out).intersection(snapshot.training_ids or ()):
        lines[0] = lines[0].replace("warning", "remark") + "; none of its training scans is a query"
    common = sorted(set(held_out).intersection(snapshot.training_ids or ()))
    if common and "dataset" not in differing:
        names = ", ".join(map(str, common))
        lines.append(
            f"warning: the snapshot was trained on scan(s) {names} of this fold, so scores are too high"
        )
    elif list(differing) == ["eval_fold"] and snapshot.training_ids is None:
        lines[0] += "; its training included these scans, so scores are too high"
    return lines + _find_adapted_queries(snapshot, held_out, supports or {})


def _find_adapted_queries(
    snapshot: Snapshot, held_out: Sequence[int], supports: Mapping[str, int]
) -> list[str]:
    """Warn of queries on whose manual labels the network was adapted."""
    scans = (snapshot.config.get("adapted_to") or {}).get("scans", ())
    adapted = sorted({scan["scan_id"] for scan in scans}.intersection(held_out))
    queries = [scan_id for scan_id in adapted if any(scan_id != support for support in supports.values())]
    if not queries:
        return []
    names = ", ".join(map(str, queries))
    return [
        f"warning: the snapshot was adapted to scan(s) {names} with their labels, which are queries here, so "
        "scores are too high; evaluate it with that support, or take the snapshot before adaptation"
    ]
