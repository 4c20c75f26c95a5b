"""The encoder's shapes, strides, start and BatchNorm handling."""

import math

import pytest
import torch
from torch import nn

from models.encoder import BACKBONES, Encoder, calibrate_batchnorm, freeze_batchnorm

LAYER3_WIDTH = {"resnet101": 1024, "resnet50": 1024, "resnet18": 256}
LAYER4_WIDTH = {"resnet101": 2048, "resnet50": 2048, "resnet18": 512}


def _images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(name="encoder", scope="module")
def _encoder():
    torch.manual_seed(0)
    return Encoder(name="resnet18", feature_width=8).eval()


def _norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.fixture(name="statistics", scope="module")
def _statistics(encoder):
    """A copy of the encoder's state at its start."""
    return {name: value.clone() for name, value in encoder.state_dict().items()}


@pytest.mark.parametrize("name", BACKBONES)
def test_features_have_a_quarter_of_the_image_size_rounded_up(name):
    with torch.device("meta"):
        encoder = Encoder(name=name, feature_width=16)
        for size_px in ((257, 257), (256, 256), (97, 70), (12, 5), (1, 1)):
            features, tau = encoder.eval()(torch.empty(2, 3, *size_px))
            grid = tuple(math.ceil(n_px / 4) for n_px in size_px)
            assert features.shape == (2, 16, *grid)
            assert tau.shape == (2, 2)
        assert math.ceil(257 / 4) == 65


@pytest.mark.parametrize("name", BACKBONES)
def test_layers_have_the_published_widths(name):
    with torch.device("meta"):
        encoder = Encoder(name=name)
    assert encoder.reduce.weight.shape == (512, LAYER3_WIDTH[name], 1, 1)
    assert encoder.reduce.bias is None
    assert encoder.backbone.fc.weight.shape == (1000, LAYER4_WIDTH[name])
    assert encoder.threshold.weight.shape == (2, 1000)
    assert encoder.threshold.bias.shape == (2,)


@pytest.mark.parametrize("name", ["resnet101", "resnet50"])
def test_bottlenecks_are_dilated_instead_of_strided(name):
    with torch.device("meta"):
        net = Encoder(name=name).backbone
    # torchvision dilates a layer's later blocks by its own rate, its first block by the rate before.
    dilations = {layer: getattr(net, layer)[-1].conv2.dilation[0] for layer in ("layer2", "layer3")}
    assert dilations == {"layer2": 2, "layer3": 4}
    assert [getattr(net, layer)[0].conv2.stride[0] for layer in ("layer2", "layer3", "layer4")] == [1, 1, 2]


def test_basic_blocks_lose_the_strides_of_layers_two_and_three_only(encoder):
    net = encoder.backbone
    assert [getattr(net, f"layer{i}")[0].conv1.stride for i in (1, 2, 3, 4)] == [
        (1, 1),
        (1, 1),
        (1, 1),
        (2, 2),
    ]
    assert all(m.dilation == (1, 1) for m in encoder.modules() if isinstance(m, nn.Conv2d))


def test_outputs_are_the_layers_run_one_after_another(encoder):
    images, net = _images(2, 3, 33, 41), encoder.backbone
    x = torch.relu(net.bn1(nn.functional.conv2d(images, net.conv1.weight, stride=2, padding=3)))
    x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
    x = net.layer3(net.layer2(net.layer1(x)))
    reduced = torch.einsum("oi,nihw->nohw", encoder.reduce.weight[:, :, 0, 0], x)
    pooled = net.layer4(x).mean(dim=(2, 3))
    classified = pooled @ net.fc.weight.T + net.fc.bias
    tau = classified @ encoder.threshold.weight.T + encoder.threshold.bias
    features, got = encoder(images)
    torch.testing.assert_close(features, reduced, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got, tau, rtol=1e-4, atol=1e-4)


def test_one_channel_means_the_same_channel_three_times(encoder):
    images = _images(2, 1, 33, 41)
    for one, three in zip(encoder(images), encoder(images.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(one, three)


def test_encode_keeps_the_order_of_episodes_and_images(encoder):
    images = _images(2, 3, 1, 33, 41)
    encoded = encoder.encode(images)
    assert encoded.features.shape == (2, 3, 8, 9, 11)
    assert encoded.tau.shape == (2, 3, 2)
    features, tau = encoder(images[1, 2][None])
    torch.testing.assert_close(encoded.features[1, 2], features[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoded.tau[1, 2], tau[0], rtol=1e-4, atol=1e-4)


def test_a_forward_pass_in_evaluation_changes_nothing(encoder, statistics):
    images = _images(2, 3, 33, 41)
    copy = images.clone()
    encoder(images)
    assert torch.equal(images, copy)
    assert all(torch.equal(value, statistics[name]) for name, value in encoder.state_dict().items())


def test_convolutions_start_as_kaiming_normal_by_fan_out(encoder):
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            expected, n = math.sqrt(2 / fan_out), module.weight.numel()
            assert module.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * n)), name
            assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(n), name


def test_norms_start_at_one_and_zero_and_linear_layers_within_pytorchs_bound(encoder):
    for norm in _norms(encoder):
        assert norm.weight.eq(1).all()
        assert norm.bias.eq(0).all()
    for linear in (encoder.backbone.fc, encoder.threshold):
        bound = 1 / math.sqrt(linear.in_features)
        assert linear.weight.abs().max().item() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("name", BACKBONES)
def test_group_norm_takes_the_place_of_every_batchnorm_in_groups_of_eight_or_more(name):
    with torch.device("meta"):
        encoder = Encoder(name=name, feature_width=8, norm="group")
    modules = list(encoder.modules())
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
    norms = [module for module in modules if isinstance(module, nn.GroupNorm)]
    assert {(norm.num_channels, norm.num_groups) for norm in norms if norm.num_channels <= 512} == {
        (64, 8),
        (128, 16),
        (256, 32),
        (512, 32),
    }


def test_with_group_norm_an_image_gives_alone_what_it_gives_with_others_in_training():
    encoder = Encoder(name="resnet18", feature_width=8, norm="group").train()
    images = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    together, tau = encoder(images)
    alone, tau_alone = encoder(images[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tau[:1], tau_alone, rtol=1e-3, atol=1e-3)


def test_an_unknown_encoder_names_the_known_ones():
    with pytest.raises(ValueError, match=r"resnet101, resnet50, resnet18, got 'resnet34'"):
        Encoder(name="resnet34")


def test_a_width_below_one_is_refused():
    with pytest.raises(ValueError, match="feature_width must be at least 1, got 0"):
        Encoder(name="resnet18", feature_width=0)


def test_frozen_norms_keep_their_statistics_in_training():
    encoder = Encoder(name="resnet18", feature_width=4).train()
    freeze_batchnorm(encoder)
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder(_images(2, 1, 19, 19))
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    assert encoder.backbone.layer1.training


def test_calibration_averages_the_statistics_of_the_batches():
    encoder = Encoder(name="resnet18", feature_width=4)
    batches = [_images(2, 1, 19, 19, seed=seed) * (1 + seed) for seed in range(3)]
    calibrate_batchnorm(encoder, batches)
    first = encoder.backbone.bn1
    with torch.no_grad():
        outputs = [encoder.backbone.conv1(images.expand(-1, 3, -1, -1)) for images in batches]
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in outputs])
    variances = torch.stack([x.var(dim=(0, 2, 3)) for x in outputs])
    torch.testing.assert_close(first.running_mean, means.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, variances.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_calibration_forgets_the_statistics_of_before():
    encoder, batches = Encoder(name="resnet18", feature_width=4), [_images(2, 1, 19, 19)]
    calibrate_batchnorm(encoder, batches)
    once = {name: value.clone() for name, value in encoder.named_buffers()}
    calibrate_batchnorm(encoder, [_images(2, 1, 19, 19, seed=7)])
    assert not torch.equal(encoder.backbone.bn1.running_mean, once["backbone.bn1.running_mean"])
    calibrate_batchnorm(encoder, batches)
    assert all(torch.equal(value, once[name]) for name, value in encoder.named_buffers())


@pytest.mark.parametrize("training", [True, False])
def test_calibration_keeps_weights_momenta_and_mode(training):
    encoder = Encoder(name="resnet18", feature_width=4).train(training)
    weights = {name: value.clone() for name, value in encoder.named_parameters()}
    calibrate_batchnorm(encoder, [_images(2, 1, 19, 19)])
    assert all(torch.equal(value, weights[name]) for name, value in encoder.named_parameters())
    assert all(value.grad is None for value in encoder.parameters())
    assert {norm.momentum for norm in _norms(encoder)} == {0.1}
    assert {m.training for m in encoder.modules()} == {training}


def test_calibration_leaves_frozen_norms_frozen():
    encoder = Encoder(name="resnet18", feature_width=4).train()
    freeze_batchnorm(encoder)
    calibrate_batchnorm(encoder, [_images(2, 1, 19, 19)])
    assert {norm.training for norm in _norms(encoder)} == {False}
