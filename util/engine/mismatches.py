"""Compare the training of a snapshot with what it is evaluated on."""

from collections.abc import Mapping, Sequence
from typing import Any

from util.engine.snapshots import Snapshot
from util.engine.training_choice import DEFAULT_FOLDS


def find_mismatches(
    snapshot: Snapshot, requested: Mapping[str, Any], held_out: Sequence[int] = ()
) -> list[str]:
    """Describe the differences between a snapshot's training and an evaluation.

    Args:
        snapshot: settings that its configuration lacks count as None.
        requested: the settings to compare, among them `dataset`. Other folds are only noted if they hold out
            all of `held_out`, too.
        held_out: ids of the scans to evaluate, on none of which it should have been trained.

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
        lines[0] = lines[0].replace("warning", "note") + "; none of its training scans is a query"
    seen = sorted(set(held_out).intersection(snapshot.training_ids or ()))
    if seen and "dataset" not in differing:
        names = ", ".join(map(str, seen))
        lines.append(
            f"warning: the snapshot was trained on scan(s) {names} of this fold, so scores are too high"
        )
    elif list(differing) == ["eval_fold"] and snapshot.training_ids is None:
        lines[0] += "; its training included these scans, so scores are too high"
    return lines
