"""An adaptation trains what it says, at the rates it is given, and resumes bit for bit."""

import copy
import math
from functools import partial

import pytest
import torch

from models.inference.adaptation import PARTS, Adaptation
from models.losses import CRITERIA
from tests.models.small_network import make_network, smooth

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


def start(network, parts="all", learning_rate=lambda step: 1e-3):
    return Adaptation(
        network,
        parts=parts,
        make_optimizer=partial(torch.optim.AdamW, lr=1.0),
        learning_rate=learning_rate,
        criterion=CRITERIA["weighted_cross_entropy"],
        precision="fp32",
    )


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


def test_each_step_takes_its_learning_rate(episode):
    network = make_network().float()
    before = copy.deepcopy(dict(network.named_parameters()))
    requested = []

    def rate(step):
        requested.append(step)
        return 0.0

    take_steps(start(network, learning_rate=rate), episode, 2)
    assert requested == [1, 2]
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
