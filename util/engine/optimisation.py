"""How a training's learning rate runs, and the running average of its weights."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn

from util.config.training_settings import OptimConfig

ADAMW_SECOND_DECAY = 0.999  # Kingma and Ba's default
# At first the average keeps little of weights that are no good yet: (1 + n) / (9 + n) after n steps.
_HEAD_START = 9


def learning_rate(optim: OptimConfig, step: int, *, n_steps: int, cut_every: int, cut_factor: float) -> float:
    """Return a step's learning rate.

    In the warm-up it rises in proportion (Goyal et al., "Accurate, Large Minibatch SGD", 2017). Then the
    schedule "steps" multiplies it by `cut_factor` every `cut_every` steps, and "cosine" lets it fall along
    half a cosine, to nothing after the last step (Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent
    with Warm Restarts", ICLR 2017).

    Args:
        optim: its `lr`, `schedule` and `warmup` count here.
        step: from 1 to `n_steps`.
        n_steps: of the whole training.
        cut_every, cut_factor: for "steps".
    """
    warmup_steps = round(optim.warmup * n_steps)
    if step <= warmup_steps:
        return optim.lr * step / warmup_steps
    if optim.schedule == "steps":
        return optim.lr * cut_factor ** ((step - 1) // cut_every)
    done = (step - 1 - warmup_steps) / (n_steps - warmup_steps)
    return optim.lr * (1 + math.cos(math.pi * done)) / 2


def make_optimizer(
    optim: OptimConfig, parameters: Iterable[nn.Parameter], *, device: torch.device
) -> torch.optim.Optimizer:
    """Make an optimiser, with fused kernels where the parameters' device has them."""
    shared = {
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "fused": device.type in ("cpu", "cuda"),
    }
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, momentum=optim.momentum, **shared)
    return torch.optim.AdamW(parameters, betas=(optim.momentum, ADAMW_SECOND_DECAY), **shared)


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
        n_updates: how often weights were taken in.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module)
        self._source = module
        self._decay = decay
        self.n_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present weights; waits for no device."""
        keep = min(self._decay, (1 + self.n_updates) / (_HEAD_START + self.n_updates))
        self.n_updates += 1
        present = self._source.state_dict()
        for name, average in self.module.state_dict().items():
            if average.is_floating_point():
                average.lerp_(present[name], 1 - keep)
            else:
                average.copy_(present[name])
