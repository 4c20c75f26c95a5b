"""The weights that trainings end with, compared to the bit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from util.engine.snapshots import load_snapshot


def final_weights(run_dir: Path, step: int) -> Mapping[str, Tensor]:
    """Return the state dict of a run's snapshot after some step."""
    return load_snapshot(run_dir / "snapshots" / f"snapshot_{step:06d}.pt").weights


def assert_equal_weights(result: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Require the same names and the same bits."""
    assert result.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(result[name], expected[name])] == []
