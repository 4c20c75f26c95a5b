"""Keep numbers that are not finite away from a network's weights.

No device is waited for.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, *, n_allowed: int, max_norm: float | None
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self._n_allowed = n_allowed
        self._max_norm = math.inf if max_norm is None else max_norm
        self._is_fused = all(group.get("fused") for group in optimizer.param_groups)
        device = next(network.parameters()).device
        # Bad steps, the last of them, and whether its loss was this rank's own.
        self._seen = torch.zeros(3, dtype=torch.int64, device=device)
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def keep_statistics(self) -> None:
        """Remember the norms' statistics; to be called before each forward pass."""
        if self._n_allowed:
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
        counts = is_bad & (self._seen[0] <= self._n_allowed)
        self._seen = torch.where(counts, seen, self._seen)
        refused = is_bad | (self._seen[0] > self._n_allowed)
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
