"""Learning-rate schedules, optimisers and exponential moving average."""

import copy
import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from util.config.settings import Amount, Positive, Settings, key

ADAMW_BETA2 = 0.999  # Kingma and Ba's default
# Warm-up of the average: after n updates its decay is at most (1 + n) / (9 + n).
_EMA_WARMUP = 9
# Optimisers, and how each takes its momentum.
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, lambda momentum: {"momentum": momentum}),
    "adamw": (torch.optim.AdamW, lambda momentum: {"betas": (momentum, ADAMW_BETA2)}),
}


def _cut(step: int, *, cut_every: int, cut_factor: float, **_: int) -> float:
    return cut_factor ** ((step - 1) // cut_every)


def _anneal(step: int, *, warmup_steps: int, n_steps: int, **_: float) -> float:
    """Anneal to 0 after the last step (Loshchilov and Hutter, "SGDR", ICLR 2017)."""
    progress = (step - 1 - warmup_steps) / (n_steps - warmup_steps)
    return (1 + math.cos(math.pi * progress)) / 2


# The learning rate's factor after the warm-up.
SCHEDULES = {"steps": _cut, "cosine": _anneal}


class OptimConfig(Settings):
    """The optimiser."""

    name: Literal[tuple(OPTIMIZERS)] = key("sgd", "optimiser")
    lr: Positive = key(1e-3, "base learning rate")
    momentum: float = key(0.9, "momentum of sgd; adamw's first decay rate", ge=0, le=1)
    weight_decay: Amount = key(5e-4, "weight decay")
    schedule: Literal[tuple(SCHEDULES)] = key(
        "steps", "steps: cuts by `lr_step_gamma`; cosine: down to zero at the last step"
    )
    warmup: float = key(0.0, "share of the steps in which the rate rises to `lr`", ge=0, le=1)
    clip_norm: Positive | None = key(None, "maximum global gradient norm; None: no clipping")
    ema_decay: float = key(
        0.0,
        "decay of the weights' exponential moving average, which snapshots then hold; 0: none",
        old_name="average_decay",
        ge=0,
        le=0.999999,
    )


def learning_rate(optim: OptimConfig, step: int, *, n_steps: int, cut_every: int, cut_factor: float) -> float:
    """Return the learning rate of a step.

    A linear warm-up (Goyal et al., "Accurate, Large Minibatch SGD", 2017) precedes the schedule.

    Args:
        optim: `lr`, `schedule` and `warmup` are used.
        step: 1 to `n_steps`.
        n_steps: length of the training.
        cut_every, cut_factor: of the schedule "steps".
    """
    warmup_steps = round(optim.warmup * n_steps)
    if step <= warmup_steps:
        return optim.lr * step / warmup_steps
    lengths = {"warmup_steps": warmup_steps, "n_steps": n_steps}
    return optim.lr * SCHEDULES[optim.schedule](step, cut_every=cut_every, cut_factor=cut_factor, **lengths)


def make_optimizer(
    optim: OptimConfig, parameters: Iterable[nn.Parameter], *, device: torch.device
) -> torch.optim.Optimizer:
    """Build the optimiser, with fused kernels if the device has them."""
    kind, momentum = OPTIMIZERS[optim.name]
    fused = device.type in ("cpu", "cuda")
    options = {"lr": optim.lr, "weight_decay": optim.weight_decay, **momentum(optim.momentum)}
    return kind(parameters, fused=fused, **options)


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
