"""A network's start depends on its seed and its options alone."""

import pytest
import torch

from models import factory
from models.encoder_weights import WeightsError
from models.factory import build_network

SMALL = {"encoder": "resnet18", "feature_width": 4}


def _weights(seed, **options):
    return build_network(seed=seed, encoder_weights=None, **{**SMALL, **options}).state_dict()


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    torch.manual_seed(0)
    first = _weights(7)
    torch.manual_seed(99)
    torch.rand(13)
    again = _weights(7)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_seed_gives_other_weights():
    first, other = _weights(7), _weights(8)
    for name in ("encoder.backbone.conv1.weight", "encoder.reduce.weight", "encoder.threshold.weight"):
        assert not torch.equal(first[name], other[name])


def test_the_global_random_state_is_left_as_it_was():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    build_network(seed=7, encoder_weights=None, **SMALL)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="encoder must be one of"):
        build_network(seed=7, encoder_weights=None, encoder="resnet19")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_switches_leave_the_common_weights_as_they_are():
    # An ablation compares networks of one start.
    full, ablated = _weights(7), _weights(7, magnitude=False, prior=False, mining=False, expansion=False)
    common = full.keys() & ablated.keys()
    assert {"encoder.reduce.weight", "similarity.alpha"} <= common
    assert all(torch.equal(full[name], ablated[name]) for name in common)


def test_options_reach_the_network():
    model = build_network(seed=0, encoder_weights=None, frozen_batchnorm=True, **SMALL)
    assert model.encoder.name == "resnet18"
    assert model.encoder.reduce.out_channels == 4
    assert model.frozen_batchnorm
    with pytest.raises(TypeError, match="no_such_option"):
        build_network(seed=0, encoder_weights=None, no_such_option=1, **SMALL)


def test_encoder_weights_are_loaded_into_the_encoder_alone(monkeypatch):
    def load(encoder, weights):
        assert weights == "imagenet"
        with torch.no_grad():
            encoder.backbone.conv1.weight.fill_(0.25)

    monkeypatch.setattr(factory, "load_encoder_weights", load)
    plain = _weights(7)
    loaded = build_network(seed=7, encoder_weights="imagenet", **SMALL).state_dict()
    assert (loaded["encoder.backbone.conv1.weight"] == 0.25).all()
    changed = [name for name in plain if not torch.equal(plain[name], loaded[name])]
    assert changed == ["encoder.backbone.conv1.weight"]


def test_weights_that_cannot_be_had_are_an_error_and_no_random_start(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.pth"):
        build_network(seed=7, encoder_weights=str(tmp_path / "gone.pth"), **SMALL)
