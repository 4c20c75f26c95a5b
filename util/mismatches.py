"""Say where a snapshot's training was another one than what it is now used for."""

from collections.abc import Mapping
from typing import Any


def find_mismatches(trained: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Describe the settings that differ between training and now, a line each.

    Args:
        trained: the settings of the training; what it lacks counts as None.
        asked: the settings to compare, among them perhaps `eval_fold`, the fold that training held out.
    """
    differing = {name: value for name, value in asked.items() if trained.get(name) != value}
    lines = [
        f"warning: the snapshot was trained with {name}={trained.get(name)}, not {value}"
        for name, value in differing.items()
    ]
    if list(differing) == ["eval_fold"]:
        lines[0] += "; its training saw these scans, so these scores are too good"
    return lines
