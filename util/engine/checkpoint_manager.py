"""Write and rotate the snapshots and checkpoints of a run; keep the best one.

Which step was the best follows from the metrics' history, which checkpoints hold, and the snapshot is written
after the checkpoint of its step. So it survives a kill at any moment.
"""

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from util.engine.checkpoints import Checkpoint, save_checkpoint
from util.engine.runs import best_snapshot_path, remove_checkpoints, remove_run_leftovers, snapshot_path
from util.engine.snapshots import Snapshot, current_versions, load_snapshot, save_snapshot
from util.engine.training_state import TrainingState
from util.errors import UserError
from util.io.files import atomic_write
from util.parallel.collectives import run_on_all_ranks
from util.parallel.ranks import find_ranks

# On slow disks the interval grows instead of the overhead.
MAX_SAVING_TIME_SHARE = 0.02
VALIDATION_METRIC = "validation_dice"


class CheckpointManager:
    """Write one run's snapshots and checkpoints, and remove outdated ones.

    Args:
        run_dir: the run folder.
        minutes: interval between checkpoints; longer if saving would exceed `MAX_SAVING_TIME_SHARE` of the
            time. 0 saves after every step.
        former_run: the run being resumed, or None. Its checkpoints are removed once this run has two.
        data, training_ids: stored in the snapshots; see `Snapshot`.

    Attributes:
        run_dir: as passed.
        is_main: whether this is rank 0, which writes.
    """

    def __init__(
        self,
        run_dir: Path,
        minutes: float,
        *,
        former_run: Path | None = None,
        data: str | None = None,
        training_ids: Sequence[int] | None = None,
    ) -> None:
        self.run_dir = run_dir
        self._data = data
        self._training_ids = training_ids
        self._min_interval_s = 60 * minutes
        self._former_run = former_run
        self.is_main = find_ranks().is_main
        if self.is_main and former_run is not None:
            remove_run_leftovers(former_run)
        self._last_save = time.monotonic()
        self._n_saved = 0
        self._interval_s = self._min_interval_s

    def is_due(self) -> bool:
        """Return whether a checkpoint is due; always False except on rank 0."""
        return self.is_main and time.monotonic() - self._last_save >= self._interval_s

    def save(self, make_checkpoint: Callable[[], Checkpoint | None]) -> None:
        """Make a checkpoint, and write it on rank 0.

        All ranks must call it at the same step.

        Args:
            make_checkpoint: returns the checkpoint on rank 0; called on all ranks.

        Raises:
            UserError: it cannot be written; raised on all ranks.
        """
        started = time.monotonic()
        checkpoint = make_checkpoint()
        run_on_all_ranks(lambda: self._write(checkpoint, started=started))

    def _write(self, checkpoint: Checkpoint | None, *, started: float) -> None:
        if checkpoint is None:
            return
        save_checkpoint(self.run_dir, checkpoint)
        self._last_save = time.monotonic()
        if self._min_interval_s:
            saving_s = self._last_save - started
            self._interval_s = max(self._min_interval_s, saving_s / MAX_SAVING_TIME_SHARE)
        self._n_saved += 1
        if self._n_saved == 2 and self._former_run is not None:
            remove_checkpoints(self._former_run)

    def save_snapshot(
        self, network: nn.Module, config: Mapping[str, Any], *, step: int, is_best: bool = False
    ) -> None:
        """Write a snapshot on rank 0, on request that of the best validation.

        Raises:
            UserError: it cannot be written.
        """
        if self.is_main:
            snapshot = Snapshot(
                step=step,
                weights=network.state_dict(),
                config=config,
                versions=current_versions(),
                data=self._data,
                training_ids=self._training_ids,
            )
            path = best_snapshot_path(self.run_dir) if is_best else snapshot_path(self.run_dir, step)
            save_snapshot(path, snapshot)

    def finish(self) -> None:
        """Remove all checkpoints after the last snapshot of a finished training."""
        if self.is_main:
            for run_dir in (self.run_dir, self._former_run):
                if run_dir is not None:
                    remove_checkpoints(run_dir)


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
