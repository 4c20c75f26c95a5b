"""Only finite gradients change weights and statistics, with every optimiser."""

import math

import pytest
import torch
from torch import nn

from util.engine.non_finite import NonFiniteGuard, NonFiniteSteps


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def _optimizer(network, name, fused=True):
    if name == "sgd":
        return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, fused=fused)
    return torch.optim.AdamW(network.parameters(), lr=0.1, fused=fused)


def _step(network, guard, step, *, scale=1.0):
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step)) * scale
    guard.save_buffers()
    loss = network(inputs).square().mean()
    loss.backward()
    guard.update(loss, step)
    network.zero_grad()


def _state(network, optimizer):
    of_optimizer = [value.clone() for state in optimizer.state.values() for value in state.values()]
    return [value.clone() for value in network.state_dict().values()], of_optimizer


def _equal(tensors, expected):
    return all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
def test_finite_steps_equal_those_of_the_bare_optimiser(name, fused):
    guarded, plain = _network(), _network()
    optimizer, other = _optimizer(guarded, name, fused), _optimizer(plain, name, fused)
    guard = NonFiniteGuard(guarded, optimizer, max_skipped=0, max_norm=None)
    for step in (1, 2, 3):
        _step(guarded, guard, step)
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        plain(inputs).square().mean().backward()
        other.step()
        plain.zero_grad()
    assert _equal(_state(guarded, optimizer)[0], _state(plain, other)[0])
    assert guard.non_finite_steps() == NonFiniteSteps(0, 0, False)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_step_and_those_after_it_change_neither_weights_nor_optimiser(name, fused, bad):
    network = _network()
    optimizer = _optimizer(network, name, fused)
    guard = NonFiniteGuard(network, optimizer, max_skipped=0, max_norm=None)
    _step(network, guard, 1)
    weights = [parameter.detach().clone() for parameter in network.parameters()]
    of_optimizer = _state(network, optimizer)[1]
    _step(network, guard, 2, scale=bad)
    _step(network, guard, 3)  # nothing after it counts either
    assert _equal(weights, [parameter.detach() for parameter in network.parameters()])
    assert _equal(of_optimizer, _state(network, optimizer)[1])
    assert guard.non_finite_steps() == NonFiniteSteps(1, 2, True)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_skipped_step_leaves_no_trace(name):
    with_bad, without = _network(), _network()
    optimizer, other = _optimizer(with_bad, name), _optimizer(without, name)
    guard = NonFiniteGuard(with_bad, optimizer, max_skipped=1, max_norm=None)
    other_guard = NonFiniteGuard(without, other, max_skipped=1, max_norm=None)
    for step in (1, 2, 3):
        if step == 2:
            _step(with_bad, guard, step, scale=math.nan)
            continue
        _step(with_bad, guard, step)
        _step(without, other_guard, step)
    assert _equal(_state(with_bad, optimizer)[0], _state(without, other)[0])  # the statistics among them
    assert guard.non_finite_steps().n_steps == 1


def test_one_non_finite_step_too_many_ends_all_updates():
    network = _network()
    guard = NonFiniteGuard(network, _optimizer(network, "sgd"), max_skipped=1, max_norm=None)
    for step in (1, 2):
        _step(network, guard, step, scale=math.nan)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    _step(network, guard, 3)
    _step(network, guard, 4, scale=math.nan)
    assert _equal(before, [parameter.detach() for parameter in network.parameters()])
    assert guard.non_finite_steps() == NonFiniteSteps(2, 2, True)


def test_gradients_that_overflow_under_a_finite_loss_are_not_this_ranks_own_loss():
    network = _network()
    guard = NonFiniteGuard(network, _optimizer(network, "sgd"), max_skipped=0, max_norm=None)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    guard.update(torch.tensor(1.0), 7)
    assert guard.non_finite_steps() == NonFiniteSteps(1, 7, False)


def test_clipping_scales_all_gradients_by_one_factor():
    network = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, fused=True)
    guard = NonFiniteGuard(network, optimizer, max_skipped=0, max_norm=1.0)
    before = network.weight.detach().clone()
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    guard.update(torch.tensor(0.0), 1)
    assert torch.allclose(before - network.weight.detach(), torch.tensor([[0.6, 0.8]]), atol=1e-5)


def test_a_resumed_training_continues_the_count():
    network = _network()
    guard = NonFiniteGuard(network, _optimizer(network, "sgd"), max_skipped=2, max_norm=None)
    guard.resume(2)
    _step(network, guard, 9, scale=math.nan)
    assert guard.non_finite_steps().n_steps == 3


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_optimisers_skip_a_step_by_the_private_attributes_of_gradscaler(name):
    network = nn.Linear(1, 1, bias=False)
    optimizer = _optimizer(network, name)
    before = network.weight.detach().clone()
    network.weight.grad = torch.ones(1, 1)
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(network.weight, before), (
        f"torch {torch.__version__}: fused {name} no longer reads `found_inf`; NonFiniteGuard must set what "
        "torch.amp.GradScaler sets now, or non-finite gradients reach the weights"
    )
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert not torch.equal(network.weight, before)
