"""Skip optimiser steps with non-finite gradients or losses, and report them.

The guard decides on the device and never synchronises; the monitor reads its counters now and then.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from util.io.tensor_files import write_tensors
from util.parallel.collectives import AllRanksError, gather_values
from util.parallel.ranks import find_ranks


def max_skipped_steps(nonfinite: str) -> int:
    """Return how many steps may be skipped: n for "skip:n", 0 for "stop"."""
    return 0 if nonfinite == "stop" else int(nonfinite.removeprefix("skip:"))


@dataclass(frozen=True)
class NonFiniteSteps:
    """The non-finite steps counted so far.

    Attributes:
        n_steps: steps with a non-finite gradient or loss.
        last_step: the last of them, or the first one above the limit; 0 if none.
        is_own_loss: whether this rank's loss was non-finite in that step; otherwise a gradient overflowed, or
            another rank's loss was non-finite.
    """

    n_steps: int
    last_step: int
    is_own_loss: bool


class NonFiniteGuard:
    """Step an optimiser only if loss and gradients are finite.

    The decision is made on the device: fused optimisers skip a step whose `found_inf` is set, the protocol of
    `torch.amp.GradScaler`. Once more than `max_skipped` steps were non-finite, all later steps are skipped as
    well, so that reading the counters now and then is enough. If steps may be skipped, the norms' running
    statistics are rolled back with them.

    Args:
        network: whose gradients are checked.
        optimizer: of its parameters.
        max_skipped: non-finite steps to skip before all are.
        max_norm: clip the gradients' total norm to this; None: no clipping.

    Attributes:
        max_skipped: as passed.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        max_skipped: int,
        max_norm: float | None,
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self.max_skipped = max_skipped
        self._max_norm = math.inf if max_norm is None else max_norm
        self._is_fused = all(group.get("fused") for group in optimizer.param_groups)
        device = next(network.parameters()).device
        # The fields of `NonFiniteSteps`.
        self._counters = torch.zeros(3, dtype=torch.int64, device=device)
        self._saved_buffers: list[tuple[Tensor, Tensor]] = []

    def save_buffers(self) -> None:
        """Save norms' running statistics for a rollback; call before each forward."""
        if self.max_skipped:
            self._saved_buffers = [(buffer, buffer.clone()) for buffer in self._network.buffers()]

    def update(self, loss: Tensor, step: int) -> None:
        """Step the optimiser unless the gradients or the loss are non-finite.

        Args:
            loss: this rank's, a scalar; the gradients are averaged over the ranks.
            step: its number, from 1 on.
        """
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), self._max_norm)
        is_own_loss = ~loss.detach().isfinite()
        # Gradients are equal on all ranks, and so is the decision.
        is_bad = ~norm.isfinite()
        n_bad, last_step, _ = self._counters
        counters = torch.stack([n_bad + 1, torch.full_like(last_step, step), is_own_loss.long()])
        # The first step above the limit stays the last one, whatever follows before it is read.
        self._counters = torch.where(is_bad & (n_bad <= self.max_skipped), counters, self._counters)
        skips = is_bad | (self._counters[0] > self.max_skipped)
        if self._is_fused:
            self._optimizer.grad_scale = None
            self._optimizer.found_inf = skips.float()
            self._optimizer.step()
        elif not skips:  # synchronises: no kernel decides on the device
            self._optimizer.step()
        for buffer, saved in self._saved_buffers:
            buffer.copy_(torch.where(skips, saved, buffer))

    def non_finite_steps(self) -> NonFiniteSteps:
        """Read the counters; synchronises with the device."""
        n_steps, last_step, is_own_loss = self._counters.tolist()
        return NonFiniteSteps(n_steps, last_step, bool(is_own_loss))

    def resume(self, n_steps: int) -> None:
        """Continue the count of a resumed training."""
        self._counters[0] = n_steps


class NonFiniteMonitor:
    """Report steps that a guard skipped, and stop the training if too many.

    Args:
        guard: of the network.
        episodes_of_step: returns this rank's episodes of a step.
        folder: where the episodes of the failing step are saved.
    """

    def __init__(
        self,
        guard: NonFiniteGuard,
        episodes_of_step: Callable[[int], list[Mapping[str, Tensor]]],
        *,
        folder: Path,
    ) -> None:
        self._guard = guard
        self._episodes_of_step = episodes_of_step
        self._folder = folder
        self._n_reported = guard.non_finite_steps().n_steps

    def check(self, write: Callable[[str], object]) -> None:
        """Report newly skipped steps; synchronises with the device.

        All ranks must call it at the same step.

        Args:
            write: prints a line.

        Raises:
            AllRanksError: more steps than allowed were non-finite. The weights are those before the last of
                them, and its episodes are saved to a file.
        """
        steps, max_skipped = self._guard.non_finite_steps(), self._guard.max_skipped
        if steps.n_steps == self._n_reported:
            return
        self._n_reported = steps.n_steps
        if steps.n_steps <= max_skipped:
            write(f"step {steps.last_step}: not finite, skipped ({steps.n_steps} of {max_skipped} allowed)")
            return
        episodes = self._episodes_of_step(steps.last_step)
        path = self._folder / "nonfinite" / f"step_{steps.last_step:06d}_rank_{find_ranks().rank}.pt"
        write_tensors(path, {"step": steps.last_step, "episodes": [dict(episode) for episode in episodes]})
        description = f"{'; '.join(map(_describe_episode, episodes))}; saved to {path}"
        # The rank whose loss was non-finite is named; the first one if a gradient overflowed.
        all_reports = gather_values((steps.is_own_loss, description))
        is_loss, description = next((entry for entry in all_reports if entry[0]), all_reports[0])
        raise AllRanksError(
            f"step {steps.last_step}: the {'loss' if is_loss else 'gradient'} is not finite ({description}); "
            "the weights are unchanged. Lower optim.lr, set optim.clip_norm or nonfinite=skip:<n>, and "
            "continue with resume=latest resume_changed=True"
        )


def _describe_episode(episode: Mapping[str, Tensor]) -> str:
    slices = ", ".join(str(int(slice_idx)) for slice_idx in episode["slice_indices"])
    return (
        f"scan {int(episode['scan_id'])}, slices {slices}, supervoxel {int(episode['supervoxel_id'])}, "
        f"episode {int(episode['episode_index'])}"
    )
