"""Recomputing the encoder's activations changes memory and nothing else."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torchvision.models.resnet import BasicBlock, Bottleneck

from models import activation_checkpointing, prototypes
from models.encoder import BACKBONES, Encoder, freeze_batchnorm
from models.factory import build_network
from models.resnet import ResNetBackbone
from tests.models.small_network import losses_of, make_batch, make_network
from tests.narrow_resnet import NarrowResNet

SIZE = (2, 1, 33, 29)
N_BLOCKS = (2, 2, 2, 2)  # of both kinds: with and without downsampling


@pytest.fixture(name="narrow")
def _narrow(monkeypatch):
    """Have encoders with an eighth of the channels: what is stored has the same shares in all."""
    for name, block in (("resnet18", BasicBlock), ("resnet50", Bottleneck)):
        monkeypatch.setitem(BACKBONES, name, partial(NarrowResNet, block, N_BLOCKS))


NARROW = pytest.mark.usefixtures("narrow")


@pytest.fixture(name="plainly")
def _plainly(monkeypatch):
    """Call something with an encoder that keeps everything."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(ResNetBackbone, "run_block", lambda _self, block, x: block(x))
            return function()

    return call


def _images(seed=0):
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def _encoder(*, checkpointing, frozen=False, name="resnet18"):
    torch.manual_seed(0)
    encoder = Encoder(name=name, feature_width=8, activation_checkpointing=checkpointing).train()
    if frozen:
        freeze_batchnorm(encoder)
    return encoder


def _step(encoder, images):
    """Features, `tau`, gradients and the state after one forward and backward pass."""
    features, tau = encoder(images)
    (features.square().mean() + tau.sum()).backward()
    gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    return features.detach(), tau.detach(), gradients, encoder.state_dict()


def _assert_all_equal(tensors, others):
    assert tensors.keys() == others.keys()
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])]
    assert different == []


@NARROW
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_gradients_and_statistics_are_exactly_those_without(name, frozen, plainly):
    plain = _encoder(checkpointing=False, frozen=frozen, name=name)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    features, tau, gradients, state = plainly(lambda: _step(plain, _images()))
    for checkpointing in (False, True):
        result = _step(_encoder(checkpointing=checkpointing, frozen=frozen, name=name), _images())
        assert torch.equal(result[0], features)
        assert torch.equal(result[1], tau)
        _assert_all_equal(result[2], gradients)
        _assert_all_equal(result[3], state)
    changed = {key for key in state if not torch.equal(state[key], before[key])}
    assert bool(changed) is not frozen
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())


@NARROW
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_keeping_less_computes_no_convolution_again(name):
    encoder, counts = _encoder(checkpointing=False, name=name), []
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, *_: counts.append(module))
    _step(encoder, _images())
    assert len(counts) == len(set(counts)) > 20


@NARROW
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_image_counts_once_in_the_statistics_however_many_steps(checkpointing):
    encoder = _encoder(checkpointing=checkpointing)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for step in (1, 2, 3):
        _step(encoder, _images(step))
        assert {norm.num_batches_tracked.item() for norm in norms} == {step}
        assert {norm.momentum for norm in norms} == {0.1}


@NARROW
def test_losses_of_the_whole_network_are_exactly_those_without():
    batch, results = [tensor.float() for tensor in make_batch(2, 1, size_px=(40, 41))], []
    for checkpointing in (False, True):
        model = build_network(
            seed=1,
            encoder_weights=None,
            encoder="resnet18",
            feature_width=8,
            activation_checkpointing=checkpointing,
        ).train()
        torch.manual_seed(7)  # dropout
        losses = losses_of(model, *batch, prototype_seeds=torch.tensor([1, 2]))
        (losses.query + losses.alignment).mean().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append((losses, gradients, model.state_dict()))
    (plain, *expected), (losses, *result) = results
    assert torch.equal(losses.query, plain.query)
    assert torch.equal(losses.alignment, plain.alignment)
    for value, reference in zip(result, expected, strict=True):
        _assert_all_equal(value, reference)


def _stored_bytes(encoder):
    """Count the bytes kept for the backward pass, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    saved = []

    def keep(tensor):
        saved.append(tensor)  # alive, so that no storage is used again
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = encoder(_images())
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    assert all(output.requires_grad for output in outputs)
    return sum(n_bytes for address, n_bytes in storages.items() if address not in own)


@NARROW
@pytest.mark.parametrize(("name", "least", "less"), [("resnet18", 1 / 2, 0.9), ("resnet50", 1 / 3, 0.9)])
def test_little_is_kept_for_the_backward_pass(name, least, less, plainly):
    everything = plainly(lambda: _stored_bytes(_encoder(checkpointing=False, name=name)))
    by_default, little = (
        _stored_bytes(_encoder(checkpointing=checkpointing, name=name)) for checkpointing in (False, True)
    )
    assert 0 < little < least * everything
    assert little < by_default < less * everything


@NARROW
def test_only_training_with_gradients_recomputes(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("recomputes")

    monkeypatch.setattr(activation_checkpointing, "checkpoint", refuse)
    for checkpointing in (False, True):
        encoder = _encoder(checkpointing=checkpointing)
        with pytest.raises(AssertionError, match="recomputes"):
            encoder(_images())
        with torch.no_grad():
            encoder(_images())
        encoder.eval()(_images())


def test_an_episode_of_a_batch_gives_losses_and_gradients_as_alone(monkeypatch):
    monkeypatch.setattr(prototypes, "MAX_WINDOWS", 20)  # fewer than there are in these small images
    batch = [tensor.float() for tensor in make_batch(2)]
    draws = torch.tensor([5, 6])
    network = make_network(tiny=False, frozen_batchnorm=True, activation_checkpointing=True).float()
    network.to(memory_format=torch.channels_last).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    parameters = list(network.parameters())
    together = losses_of(network, *batch, prototype_seeds=draws)
    expected = torch.autograd.grad((together.query + together.alignment).sum(), parameters)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for episode in range(2):
        alone = losses_of(
            network, *(tensor[episode, None] for tensor in batch), prototype_seeds=draws[episode, None]
        )
        torch.testing.assert_close(alone.query[0], together.query[episode], rtol=1e-5, atol=0)
        torch.testing.assert_close(alone.alignment[0], together.alignment[episode], rtol=1e-5, atol=0)
        gradients = torch.autograd.grad((alone.query + alone.alignment).sum(), parameters)
        for sum_, gradient in zip(total, gradients, strict=True):
            sum_ += gradient
    for sum_, gradient in zip(total, expected, strict=True):
        torch.testing.assert_close(sum_, gradient, rtol=0, atol=1e-3 * gradient.abs().max().item())
    with torch.no_grad():  # the draws do matter
        other = losses_of(network, *batch, prototype_seeds=draws + 10)
    assert (other.query - together.query).abs().min() > 1e-4 * together.query.max()
