"""Keep numbers that are not finite away from a network's weights.

The guard waits for no device; the watch looks at it now and then.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from util.engine.snapshots import write_tensors
from util.parallel.collectives import AgreedError, gather_values
from util.parallel.ranks import find_ranks

Episodes = Callable[[int], list[Mapping[str, Tensor]]]


def allowed_bad_steps(nonfinite: str) -> int:
    """Return how many steps may be left out: n of "skip:n", none of "stop"."""
    return 0 if nonfinite == "stop" else int(nonfinite.removeprefix("skip:"))


@dataclass(frozen=True)
class Trouble:
    """What a guard has seen so far.

    Attributes:
        n_steps: steps whose gradients or loss were not finite.
        last_step: the last of them; 0 where there is none. When there was one too many it is that one.
        is_own: whether this rank's own loss was not finite in that step; otherwise a gradient overflowed, or
            another rank's loss was not finite.
    """

    n_steps: int
    last_step: int
    is_own: bool


class FiniteGuard:
    """Updates a network by its gradients where they are finite.

    The decision is taken on the device: the optimiser's fused kernels leave everything as it is where they
    are told to. Once more steps were bad than are allowed, no later one changes the weights either, so that a
    look at `read` now and then is enough. Norms' statistics are restored after a bad step if any is allowed.

    Args:
        network: whose gradients are looked at.
        optimizer: of its parameters.
        n_allowed: bad steps to leave out before all are.
        max_norm: the gradients' norm is clipped to this; None: it is not.

    Attributes:
        n_allowed: as given.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, *, n_allowed: int, max_norm: float | None
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self.n_allowed = n_allowed
        self._max_norm = math.inf if max_norm is None else max_norm
        self._is_fused = all(group.get("fused") for group in optimizer.param_groups)
        device = next(network.parameters()).device
        # Bad steps, the last of them, and whether its loss was this rank's own.
        self._seen = torch.zeros(3, dtype=torch.int64, device=device)
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def keep_statistics(self) -> None:
        """Remember the norms' statistics; to be called before each forward pass."""
        if self.n_allowed:
            self._statistics = [(buffer, buffer.clone()) for buffer in self._network.buffers()]

    def update(self, loss: Tensor, step: int) -> None:
        """Change the weights by the gradients, unless these or the loss are not finite.

        Args:
            loss: this rank's, a scalar; the gradients are all ranks' mean.
            step: its number, from 1 on.
        """
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), self._max_norm)
        is_own = ~loss.detach().isfinite()
        # All ranks have the same gradients, so they all decide alike.
        is_bad = ~norm.isfinite()
        seen = torch.stack([self._seen[0] + 1, torch.full_like(self._seen[1], step), is_own.long()])
        # One step too many stays the last, whatever follows before somebody looks.
        counts = is_bad & (self._seen[0] <= self.n_allowed)
        self._seen = torch.where(counts, seen, self._seen)
        refused = is_bad | (self._seen[0] > self.n_allowed)
        if self._is_fused:
            self._optimizer.grad_scale = None
            self._optimizer.found_inf = refused.float()
            self._optimizer.step()
        elif not refused:  # waits for the device, which has no kernel to decide for itself
            self._optimizer.step()
        for buffer, before in self._statistics:
            buffer.copy_(torch.where(refused, before, buffer))

    def read(self) -> Trouble:
        """Say what was seen; waits for the device."""
        n_steps, last_step, is_own = self._seen.tolist()
        return Trouble(n_steps, last_step, bool(is_own))

    def resume(self, n_steps: int) -> None:
        """Go on after a training that had so many bad steps."""
        self._seen[0] = n_steps


class FiniteWatch:
    """Looks at a guard now and then, and tells what it saw.

    Args:
        guard: of the network.
        episodes: gives the episodes that this rank played in a step.
        folder: where episodes that gave bad numbers are kept for a look.
    """

    def __init__(self, guard: FiniteGuard, episodes: Episodes, *, folder: Path) -> None:
        self._guard = guard
        self._episodes = episodes
        self._folder = folder
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
        if trouble.n_steps <= self._guard.n_allowed:
            count = f"{trouble.n_steps} of {self._guard.n_allowed} allowed"
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


def _place(episode: Mapping[str, Tensor]) -> str:
    slices = ", ".join(str(int(slice_idx)) for slice_idx in episode["slice_indices"])
    return (
        f"scan {int(episode['scan_id'])}, slices {slices}, supervoxel {int(episode['supervoxel_id'])}, "
        f"episode {int(episode['episode_index'])}"
    )
