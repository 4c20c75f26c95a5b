"""Weights are changed by finite gradients alone, with every optimiser, and statistics with them."""

import math

import pytest
import torch
from torch import nn

from util.engine.non_finite import FiniteGuard, Trouble


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def _optimizer(network, name, fused=True):
    if name == "sgd":
        return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, fused=fused)
    return torch.optim.AdamW(network.parameters(), lr=0.1, fused=fused)


def _play(network, guard, step, *, scale=1.0):
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step)) * scale
    guard.keep_statistics()
    loss = network(inputs).square().mean()
    loss.backward()
    guard.update(loss, step)
    network.zero_grad()


def _state(network, optimizer):
    of_optimizer = [value.clone() for state in optimizer.state.values() for value in state.values()]
    return [value.clone() for value in network.state_dict().values()], of_optimizer


def _equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
def test_finite_steps_are_the_optimisers_own(name, fused):
    guarded, plain = _network(), _network()
    optimizer, other = _optimizer(guarded, name, fused), _optimizer(plain, name, fused)
    guard = FiniteGuard(guarded, optimizer, n_allowed=0, max_norm=None)
    for step in (1, 2, 3):
        _play(guarded, guard, step)
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        plain(inputs).square().mean().backward()
        other.step()
        plain.zero_grad()
    assert _equal(_state(guarded, optimizer)[0], _state(plain, other)[0])
    assert guard.read() == Trouble(0, 0, False)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_step_changes_neither_weights_nor_the_optimiser_nor_what_follows(name, fused, bad):
    network = _network()
    optimizer = _optimizer(network, name, fused)
    guard = FiniteGuard(network, optimizer, n_allowed=0, max_norm=None)
    _play(network, guard, 1)
    weights = [parameter.detach().clone() for parameter in network.parameters()]
    of_optimizer = _state(network, optimizer)[1]
    _play(network, guard, 2, scale=bad)
    _play(network, guard, 3)  # nothing after it counts either
    assert _equal(weights, [parameter.detach() for parameter in network.parameters()])
    assert _equal(of_optimizer, _state(network, optimizer)[1])
    assert guard.read() == Trouble(1, 2, True)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_allowed_bad_step_is_as_if_it_had_not_been_played(name):
    with_bad, without = _network(), _network()
    optimizer, other = _optimizer(with_bad, name), _optimizer(without, name)
    guard = FiniteGuard(with_bad, optimizer, n_allowed=1, max_norm=None)
    guard_of_other = FiniteGuard(without, other, n_allowed=1, max_norm=None)
    for step in (1, 2, 3):
        if step == 2:
            _play(with_bad, guard, step, scale=math.nan)
            continue
        _play(with_bad, guard, step)
        _play(without, guard_of_other, step)
    assert _equal(_state(with_bad, optimizer)[0], _state(without, other)[0])  # the statistics among them
    assert guard.read().n_steps == 1


def test_one_bad_step_too_many_ends_all_changes():
    network = _network()
    guard = FiniteGuard(network, _optimizer(network, "sgd"), n_allowed=1, max_norm=None)
    for step in (1, 2):
        _play(network, guard, step, scale=math.nan)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    _play(network, guard, 3)
    _play(network, guard, 4, scale=math.nan)
    assert _equal(before, [parameter.detach() for parameter in network.parameters()])
    assert guard.read() == Trouble(2, 2, True)


def test_gradients_that_overflow_under_a_finite_loss_are_not_this_ranks_own_loss():
    network = _network()
    guard = FiniteGuard(network, _optimizer(network, "sgd"), n_allowed=0, max_norm=None)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    guard.update(torch.tensor(1.0), 7)
    assert guard.read() == Trouble(1, 7, False)


def test_clipping_scales_all_gradients_by_one_factor():
    network = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, fused=True)
    guard = FiniteGuard(network, optimizer, n_allowed=0, max_norm=1.0)
    before = network.weight.detach().clone()
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    guard.update(torch.tensor(0.0), 1)
    assert torch.allclose(before - network.weight.detach(), torch.tensor([[0.6, 0.8]]), atol=1e-5)


def test_bad_steps_of_before_count_on():
    network = _network()
    guard = FiniteGuard(network, _optimizer(network, "sgd"), n_allowed=2, max_norm=None)
    guard.resume(2)
    _play(network, guard, 9, scale=math.nan)
    assert guard.read().n_steps == 3
