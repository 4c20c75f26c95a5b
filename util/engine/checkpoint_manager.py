"""Keep the snapshots and checkpoints of a training."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from util.engine.checkpoints import Checkpoint, save_checkpoint
from util.engine.runs import remove_checkpoints, remove_run_leftovers, snapshot_path
from util.engine.snapshots import Snapshot, current_versions, save_snapshot
from util.parallel.collectives import agree
from util.parallel.ranks import find_ranks

# Where disks are slow, training is worth more than a checkpoint every minute.
MOST_TIME_SAVING = 0.02


class CheckpointKeeper:
    """Keeps one run's snapshots and checkpoints.

    Args:
        run_dir: the run's folder.
        minutes: time between two checkpoints; longer where they would take more than
            `MOST_TIME_SAVING` of the time. With 0 every step is followed by one.
        former_run: the run that this one goes on from, or None. Its checkpoints go when this one has two.
        data, training_ids: of the data, for the snapshots; see `Snapshot`.

    Attributes:
        run_dir: as given.
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
        self._seconds = 60 * minutes
        self._former_run = former_run
        self._is_main = find_ranks().is_main
        if self._is_main and former_run is not None:
            remove_run_leftovers(former_run)
        self._last = time.monotonic()
        self._n_saved = 0
        self._pause = self._seconds

    def is_due(self) -> bool:
        """Say whether it is time for a checkpoint; on the rank that writes alone."""
        return self._is_main and time.monotonic() - self._last >= self._pause

    def save(self, take: Callable[[], Checkpoint | None]) -> None:
        """Take a checkpoint and, on the rank that writes, write it.

        All ranks must call it at the same step.

        Args:
            take: gives the checkpoint on the rank that writes.

        Raises:
            UserError: it cannot be written; on all ranks alike.
        """
        started = time.monotonic()
        checkpoint = take()
        agree(lambda: self._write(checkpoint, started=started))

    def _write(self, checkpoint: Checkpoint | None, *, started: float) -> None:
        if checkpoint is None:
            return
        save_checkpoint(self.run_dir, checkpoint)
        self._last = time.monotonic()
        if self._seconds:
            self._pause = max(self._seconds, (self._last - started) / MOST_TIME_SAVING)
        self._n_saved += 1
        if self._n_saved == 2 and self._former_run is not None:
            remove_checkpoints(self._former_run)

    def save_snapshot(self, network: nn.Module, config: Mapping[str, Any], *, step: int) -> None:
        """Write a snapshot where this is the rank that writes.

        Raises `UserError` if it cannot.
        """
        if self._is_main:
            snapshot = Snapshot(
                step=step,
                weights=network.state_dict(),
                config=config,
                versions=current_versions(),
                data=self._data,
                training_ids=self._training_ids,
            )
            save_snapshot(snapshot_path(self.run_dir, step), snapshot)

    def finish(self) -> None:
        """Remove all checkpoints: the training's last snapshot is there."""
        if self._is_main:
            for run_dir in (self.run_dir, self._former_run):
                if run_dir is not None:
                    remove_checkpoints(run_dir)
