"""How a training's learning rate runs, and the running average of its weights."""

import copy
import math

import torch
from torch import nn

SCHEDULES = ("steps", "cosine")
# At first the average keeps little of weights that are no good yet: (1 + n) / (9 + n) after n steps.
_HEAD_START = 9


def learning_rate(
    step: int,
    *,
    start: float,
    schedule: str,
    n_steps: int,
    warmup_steps: int,
    cut_every: int,
    cut_factor: float,
) -> float:
    """Return a step's learning rate.

    Args:
        step: from 1 to `n_steps`.
        start: the rate after the warm-up.
        schedule: "steps" multiplies it by `cut_factor` every `cut_every` steps; "cosine" lets it fall along
            half a cosine, to nothing after the last step. Source: Loshchilov and Hutter, "SGDR: Stochastic
            Gradient Descent with Warm Restarts", ICLR 2017.
        n_steps: of the whole training.
        warmup_steps: steps in which the rate rises in proportion. Source: Goyal et al., "Accurate, Large
            Minibatch SGD", 2017.
        cut_every, cut_factor: for "steps".

    Raises:
        ValueError: there is no such schedule.
    """
    if step <= warmup_steps:
        return start * step / warmup_steps
    if schedule == "steps":
        return start * cut_factor ** ((step - 1) // cut_every)
    if schedule == "cosine":
        done = (step - 1 - warmup_steps) / (n_steps - warmup_steps)
        return start * (1 + math.cos(math.pi * done)) / 2
    raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")


class WeightAverage:
    """A running average of a module's weights and of its norms' statistics.

    It forgets exponentially. Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by
    Averaging", 1992.

    Args:
        module: not changed.
        decay: what the average keeps of itself in a step, at least 0 and below 1. In the first steps it keeps
            less, so that it does not remember the start.

    Attributes:
        module: a copy that holds the averages; what is no floating-point number there is the present one.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module)
        self._source = module
        self._decay = decay
        self._n_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present weights; waits for no device."""
        keep = min(self._decay, (1 + self._n_updates) / (_HEAD_START + self._n_updates))
        self._n_updates += 1
        present = self._source.state_dict()
        for name, average in self.module.state_dict().items():
            if average.is_floating_point():
                average.lerp_(present[name], 1 - keep)
            else:
                average.copy_(present[name])
