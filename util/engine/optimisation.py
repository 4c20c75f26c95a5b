"""Learning-rate schedules, optimisers and exponential moving average."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from util.config.training_settings import OptimConfig

ADAMW_BETA2 = 0.999  # Kingma and Ba's default
# Warm-up of the average: after n updates its decay is at most (1 + n) / (9 + n).
_EMA_WARMUP = 9


def learning_rate(optim: OptimConfig, step: int, *, n_steps: int, cut_every: int, cut_factor: float) -> float:
    """Return the learning rate of a step.

    A linear warm-up (Goyal et al., "Accurate, Large Minibatch SGD", 2017) precedes the schedule: "steps"
    multiplies the rate by `cut_factor` every `cut_every` steps, "cosine" anneals it to 0 after the last step
    (Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017).

    Args:
        optim: `lr`, `schedule` and `warmup` are used.
        step: 1 to `n_steps`.
        n_steps: length of the training.
        cut_every, cut_factor: for "steps".
    """
    warmup_steps = round(optim.warmup * n_steps)
    if step <= warmup_steps:
        return optim.lr * step / warmup_steps
    if optim.schedule == "steps":
        return optim.lr * cut_factor ** ((step - 1) // cut_every)
    progress = (step - 1 - warmup_steps) / (n_steps - warmup_steps)
    return optim.lr * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(
    optim: OptimConfig, parameters: Iterable[nn.Parameter], *, device: torch.device
) -> torch.optim.Optimizer:
    """Build the optimiser, with fused kernels if the device has them."""
    shared = {
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "fused": device.type in ("cpu", "cuda"),
    }
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, momentum=optim.momentum, **shared)
    return torch.optim.AdamW(parameters, betas=(optim.momentum, ADAMW_BETA2), **shared)


class ExponentialMovingAverage:
    """Exponential moving average (EMA) of a module's weights and norm statistics.

    The update is PyTorch's `get_ema_multi_avg_fn` with a warm-up of the decay. `AveragedModel` is not used,
    because its `update_parameters` reads a counter on the host and copies it to the device at every step.
    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.

    Args:
        module: averaged; not changed.
        decay: 0 to below 1; smaller in the first steps, so that the initial weights are forgotten quickly.

    Attributes:
        module: a copy that holds the averages; integer buffers are copied, not averaged.
        n_updates: number of updates.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module)
        self._source = module
        self._decay = decay
        self.n_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Average in the module's current weights; does not synchronise with the device."""
        decay = min(self._decay, (1 + self.n_updates) / (_EMA_WARMUP + self.n_updates))
        self.n_updates += 1
        pairs = list(zip(self.module.state_dict().values(), self._source.state_dict().values(), strict=True))
        averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        get_ema_multi_avg_fn(decay)(averages, values, self.n_updates)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)
