"""An adaptation trains what it says, by its schedule, and resumes bit for bit."""

import copy
import math

import pytest
import torch

from models.inference.adaptation import PARTS, Adaptation, rate_factor
from models.losses import CRITERIA
from tests.models.episodes import make_network, smooth

SIZE = (33, 37)
N_STEPS = 8


@pytest.fixture(name="episode", scope="module")
def _episode():
    images = smooth(1, 2, 1, size_px=SIZE, seed=3).float()
    masks = torch.zeros(1, 2, *SIZE)
    masks[..., 8:22, 9:25] = 1
    return {
        "support_images": images[:, :1],
        "support_masks": masks[:, :1],
        "query_images": images[:, 1:],
        "query_masks": masks[:, 1:].long(),
    }


def start(network, parts="all", **changes):
    settings = {"n_steps": N_STEPS, "lr": 1e-3, "weight_decay": 0.01, "parts": parts, **changes}
    return Adaptation(network, criterion=CRITERIA["weighted_cross_entropy"], precision="fp32", **settings)


def take_steps(adaptation, episode, n_steps):
    return [adaptation.take_step(episode, seed=adaptation.step) for _ in range(n_steps)]


def changed_names(before, network):
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def test_the_loss_of_a_repeated_episode_falls(episode):
    losses = take_steps(start(make_network().float()), episode, N_STEPS)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("parts", PARTS)
def test_only_the_chosen_parts_change(parts, episode):
    network = make_network().float()
    before = copy.deepcopy(network.state_dict())
    take_steps(start(network, parts), episode, 1)
    prefixes = {"all": "", "all_but_encoder": ("mining.", "matching."), "decoders": "matching.decoder_"}
    changed = changed_names(before, network)
    assert changed
    assert all(name.startswith(prefixes[parts]) for name in changed)
    assert any(name.startswith("matching.decoder_fg") for name in changed)
    # BatchNorm statistics belong to the encoder.
    assert any("running_mean" in name for name in changed) == (parts == "all")


def test_resuming_is_bit_identical(episode):
    whole, first = start(make_network().float()), start(make_network().float())
    take_steps(whole, episode, 5)
    take_steps(first, episode, 2)
    resumed = start(make_network().float())
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert resumed.step == 2
    take_steps(resumed, episode, 3)
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())


def test_a_non_finite_loss_raises_and_leaves_the_weights(episode):
    network = make_network().float()
    adaptation = start(network, "decoders")
    before = copy.deepcopy(network.state_dict())
    broken = {**episode, "query_images": torch.full_like(episode["query_images"], math.nan)}
    with pytest.raises(FloatingPointError, match="in step 1"):
        adaptation.take_step(broken, seed=0)
    assert not changed_names(before, network)


def test_the_rate_rises_then_falls_along_a_cosine():
    factors = [rate_factor(step, 100) for step in range(1, 101)]
    assert factors[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert factors[5] == 1.0
    assert factors[5 + 47] == pytest.approx((1 + math.cos(math.pi * 47 / 95)) / 2)
    assert factors == sorted(factors[:5]) + sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 1e-3


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_the_shortest_adaptations_have_a_rate(n_steps):
    assert all(0 < rate_factor(step, n_steps) <= 1 for step in range(1, n_steps + 1))
