"""Write and rotate the snapshots and checkpoints of a run."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from util.engine.checkpoints import Checkpoint, save_checkpoint
from util.engine.runs import best_snapshot_path, remove_checkpoints, remove_run_leftovers, snapshot_path
from util.engine.snapshots import Snapshot, current_versions, save_snapshot
from util.parallel.collectives import run_on_all_ranks
from util.parallel.ranks import find_ranks

# On slow disks the interval grows instead of the overhead.
MAX_SAVING_TIME_SHARE = 0.02


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
