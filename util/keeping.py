"""Keep what a training gives, and watch for bad numbers."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.checkpoints import Checkpoint, save_checkpoint
from util.distributed import AgreedError, gather_values
from util.finite import FiniteGuard
from util.ranks import find_ranks
from util.runs import remove_checkpoints, snapshot_path
from util.snapshots import Snapshot, current_versions, save_snapshot, write_tensors

Episodes = Callable[[int], list[Mapping[str, torch.Tensor]]]


def allowed_bad_steps(nonfinite: str) -> int:
    """Return how many steps may be left out: n of "skip:n", none of "stop"."""
    return 0 if nonfinite == "stop" else int(nonfinite.removeprefix("skip:"))


class CheckpointKeeper:
    """Keeps one run's snapshots and checkpoints.

    Args:
        run_dir: the run's folder.
        minutes: time between two checkpoints.
        former_run: the run that this one goes on from, or None. Its checkpoints go when this one has two.
        data: hash of the data's fingerprint, for the snapshots.

    Attributes:
        run_dir: as given.
    """

    def __init__(
        self, run_dir: Path, *, minutes: float, former_run: Path | None = None, data: str | None = None
    ) -> None:
        self.run_dir = run_dir
        self._data = data
        self._seconds = 60 * minutes
        self._former_run = former_run
        self._is_main = find_ranks().is_main
        self._last = time.monotonic()
        self._n_saved = 0

    def is_due(self) -> bool:
        """Say whether it is time for a checkpoint; on the rank that writes alone."""
        return self._is_main and time.monotonic() - self._last >= self._seconds

    def save(self, checkpoint: Checkpoint | None) -> None:
        """Write a checkpoint where this is the rank that writes.

        Raises `UserError` if it cannot.
        """
        if not self._is_main or checkpoint is None:
            return
        save_checkpoint(self.run_dir, checkpoint)
        self._last = time.monotonic()
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
            )
            save_snapshot(snapshot_path(self.run_dir, step), snapshot)

    def finish(self) -> None:
        """Remove all checkpoints: the training's last snapshot is there."""
        if self._is_main:
            for run_dir in (self.run_dir, self._former_run):
                if run_dir is not None:
                    remove_checkpoints(run_dir)


class FiniteWatch:
    """Looks at a guard now and then, and tells what it saw.

    Args:
        guard: of the network.
        episodes: gives the episodes that this rank played in a step.
        folder: where episodes that gave bad numbers are kept for a look.
        n_allowed: steps that may be left out.
    """

    def __init__(self, guard: FiniteGuard, episodes: Episodes, *, folder: Path, n_allowed: int) -> None:
        self._guard = guard
        self._episodes = episodes
        self._folder = folder
        self._n_allowed = n_allowed
        self._n_known = guard.read().n_steps

    def look(self, say: Callable[[str], object]) -> None:
        """Tell of steps that were left out; waits for the device.

        All ranks must call it at the same step.

        Args:
            say: takes a line of text.

        Raises:
            AgreedError: they are more than allowed. The weights are those before the last of them, and its
                episodes are in a file.
        """
        trouble = self._guard.read()
        if trouble.n_steps == self._n_known:
            return
        self._n_known = trouble.n_steps
        if trouble.n_steps <= self._n_allowed:
            count = f"{trouble.n_steps} of {self._n_allowed} allowed"
            say(f"step {trouble.last_step}: not finite, left out ({count})")
            return
        rank = find_ranks().rank
        episodes = self._episodes(trouble.last_step)
        path = self._folder / "nonfinite" / f"step_{trouble.last_step:06d}_rank_{rank}.pt"
        write_tensors(path, {"step": trouble.last_step, "episodes": [dict(episode) for episode in episodes]})
        places = "; ".join(map(_place, episodes))
        # The rank whose own loss it was tells; where a gradient overflowed, the first one.
        told = gather_values((trouble.is_own, f"{places}; kept in {path}"))
        is_own, place = next((one for one in told if one[0]), told[0])
        raise AgreedError(
            f"step {trouble.last_step}: the {'loss' if is_own else 'gradient'} is not finite ({place}); the "
            "weights were not touched. Lower optim.lr, set optim.clip_norm or nonfinite=skip:<n>, and go on "
            "with resume=latest resume_changed=True"
        )


def _place(episode: Mapping[str, torch.Tensor]) -> str:
    slices = ", ".join(str(int(slice_idx)) for slice_idx in episode["slice_indices"])
    return (
        f"scan {int(episode['scan_id'])}, slices {slices}, supervoxel {int(episode['supervoxel_id'])}, "
        f"episode {int(episode['episode_index'])}"
    )
