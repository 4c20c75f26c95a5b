"""Say where a snapshot's training was another one than what it is now used for."""

from collections.abc import Mapping, Sequence
from typing import Any

from util.engine.snapshots import Snapshot


def find_mismatches(
    snapshot: Snapshot, requested: Mapping[str, Any], held_out: Sequence[int] = ()
) -> list[str]:
    """Describe what differs between training and now, a line each.

    Args:
        snapshot: settings that its configuration lacks count as None.
        requested: the settings to compare, among them `dataset`.
        held_out: ids of the scans to evaluate, none of which it should have been trained on.
    """
    trained = snapshot.config
    differing = {name: value for name, value in requested.items() if trained.get(name) != value}
    lines = [
        f"warning: the snapshot was trained with {name}={trained.get(name)}, not {value}"
        for name, value in differing.items()
    ]
    seen = sorted(set(held_out).intersection(snapshot.training_ids or ()))
    if seen and "dataset" not in differing:
        names = ", ".join(map(str, seen))
        lines.append(
            f"warning: the snapshot was trained on scan(s) {names} of this fold, so scores are too good"
        )
    elif list(differing) == ["eval_fold"] and snapshot.training_ids is None:
        lines[0] += "; its training saw these scans, so these scores are too good"
    return lines
