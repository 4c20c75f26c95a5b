"""Keep the snapshot of the best validation in addition to the last one.

Which step was the best follows from the metrics' history, which checkpoints hold, and the snapshot is written
after the checkpoint of its step. So it survives a kill at any moment.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from util.engine.checkpoint_manager import CheckpointManager
from util.engine.runs import best_snapshot_path
from util.engine.snapshots import load_snapshot
from util.engine.training_state import TrainingState
from util.errors import UserError
from util.io.files import atomic_write
from util.parallel.collectives import run_on_all_ranks

VALIDATION_METRIC = "validation_dice"


def find_best_step(history: Mapping[str, Mapping[str, Sequence]]) -> int | None:
    """Return the step of the first best validation; None without validation."""
    metric = history.get(VALIDATION_METRIC, {"steps": (), "values": ()})
    best_step, best_value = None, -math.inf
    for step, value in zip(metric["steps"], metric["values"], strict=True):
        if value > best_value:
            best_step, best_value = step, value
    return best_step


class BestSnapshot:
    """Keep one run's snapshot of the best validation.

    All ranks must call each method.

    Args:
        state: of the training.
        checkpoints: of its run.
        config: of the training, plain values.
        copy_network: returns a copy of the network that snapshots hold.
    """

    def __init__(
        self,
        state: TrainingState,
        checkpoints: CheckpointManager,
        *,
        config: Mapping[str, Any],
        copy_network: Callable[[], nn.Module],
    ) -> None:
        self._state, self._checkpoints = state, checkpoints
        self._config, self._copy_network = config, copy_network

    def update(self) -> None:
        """Save the present network if its validation is the best.

        The step's checkpoint must have been written before.

        Raises:
            UserError: it cannot be written.
        """
        step = self._state.step
        if find_best_step(self._state.history.metrics) != step:
            return
        network = self._copy_network()
        run_on_all_ranks(
            lambda: self._checkpoints.save_snapshot(network, self._config, step=step, is_best=True)
        )

    def resume(self, former_run: Path) -> None:
        """Take over the best snapshot of the run being resumed.

        It is saved if that run was killed before it could do so. A warning is printed if it is lost, as
        after a damaged checkpoint.

        Raises:
            UserError: the copy cannot be written.
        """
        step = find_best_step(self._state.history.metrics)
        if step == self._state.step:
            self.update()
        elif step is not None:
            run_on_all_ranks(lambda: self._copy(best_snapshot_path(former_run), step))

    def _copy(self, source: Path, step: int) -> None:
        if not self._checkpoints.is_main:
            return
        try:
            source_step = load_snapshot(source).step
            reason = None if source_step == step else f"{source} is of step {source_step}"
        except UserError as error:
            reason = str(error)
        if reason:
            print(f"warning: the best snapshot so far, of step {step}, is lost ({reason})", flush=True)
            return
        with atomic_write(best_snapshot_path(self._checkpoints.run_dir)) as temporary:
            shutil.copyfile(source, temporary)
