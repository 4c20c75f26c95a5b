"""Learning rates by hand, and the moving average of weights against its formula."""

import itertools
import math

import pytest
import torch
from torch import nn

from util.engine.optimisation import ExponentialMovingAverage, OptimConfig, learning_rate


def _rate(step, schedule, warmup=0.0):
    optim = OptimConfig(lr=0.8, schedule=schedule, warmup=warmup)
    return learning_rate(optim, step, n_steps=100, cut_every=30, cut_factor=0.5)


@pytest.mark.parametrize(("step", "rate"), [(1, 0.8), (30, 0.8), (31, 0.4), (60, 0.4), (61, 0.2), (100, 0.1)])
def test_steps_cut_the_rate_every_so_many_steps(step, rate):
    assert _rate(step, "steps") == pytest.approx(rate)


@pytest.mark.parametrize(("step", "rate"), [(1, 0.8), (51, 0.4), (26, 0.4 * (1 + math.sqrt(0.5)))])
def test_cosine_falls_from_the_start_through_the_half_in_the_middle(step, rate):
    assert _rate(step, "cosine") == pytest.approx(rate)


def test_cosine_ends_just_above_nothing_and_always_falls():
    rates = [_rate(step, "cosine", 0.1) for step in range(1, 101)]
    assert 0 < rates[-1] < 0.001 * 0.8
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_the_warm_up_rises_in_proportion_to_the_full_rate(schedule):
    rates = [_rate(step, schedule, 0.04) for step in range(1, 6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_a_training_that_is_all_warm_up_has_a_rate_for_each_step():
    rates = [_rate(step, "cosine", 1.0) for step in (1, 50, 100)]
    assert rates == pytest.approx([0.008, 0.4, 0.8])


@pytest.fixture(name="module")
def _module():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def _fill(module, value):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_the_decay_of_the_average_is_warmed_up(module):
    _fill(module, 100.0)
    average = ExponentialMovingAverage(module, 0.25)
    for value in (9.0, 0.0, 0.0, 0.0):
        _fill(module, value)
        average.update()
    # keeps 1/9, 2/10, then 0.25 of what was there
    expected = ((100 / 9 + 9 * 8 / 9) * 0.2) * 0.25 * 0.25
    assert torch.allclose(average.module.state_dict()["0.weight"], torch.full((2, 2), expected))


def test_running_statistics_are_averaged_and_counters_copied(module):
    average = ExponentialMovingAverage(module, 0.5)
    module[1](torch.tensor([[4.0, 8.0], [4.0, 8.0]]))  # running means become 0.1 of these
    average.update()
    state = average.module.state_dict()
    assert torch.allclose(state["1.running_mean"], torch.tensor([0.4, 0.8]) * 8 / 9)
    assert state["1.num_batches_tracked"] == 1
    assert state.keys() == module.state_dict().keys()


def test_module_and_average_change_independently(module):
    average = ExponentialMovingAverage(module, 0.9)
    before = {name: tensor.clone() for name, tensor in average.module.state_dict().items()}
    _fill(module, 7.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.module.state_dict().items())
    average.update()
    assert all((parameter == 7.0).all() for parameter in module.parameters())


def test_updates_interpolate_every_tensor_linearly_to_the_bit(module):
    ema = ExponentialMovingAverage(module, 0.9)
    expected = {name: tensor.clone() for name, tensor in ema.module.state_dict().items()}
    for n_updates in range(100):
        for parameter in module.parameters():
            parameter.data.normal_()
        ema.update()
        decay = min(0.9, (1 + n_updates) / (9 + n_updates))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = expected[name].lerp(tensor, 1 - decay)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ema.module.state_dict().items())
