"""Mixed precision: bfloat16 where it serves, and results that stay near those of float32.

Tolerances are about three times the largest deviations that were found over several seeds. Nearly all of them
come from the encoder's convolutions, whose features differ by 2.5 %; behind it little is lost.
"""

import copy

import pytest
import torch
from torch import nn

from models.encoder import BACKBONES, Encoded
from models.inference.segmenters import NetworkSegmenter
from models.losses import weighted_cross_entropy
from models.precision import full_precision, mixed_precision, store_half_weights, upcast
from tests.models.small_network import losses_of, make_batch, make_network
from tests.narrow_resnet import NarrowResNet
from util.parallel.processor import has_bfloat16

CPU = torch.device("cpu")
SEEDS = (0, 2, 4)
# A pass through an encoder takes ten seconds on processors without units for the format.
WITH_UNITS = pytest.mark.skipif(has_bfloat16() is False, reason="needs a processor with bfloat16 units")
KEPT_WIDE = ("bn", "downsample.1", "fc", "threshold", "alpha", "mu", "beta", "expand_bg")


def _network(**switches):
    """A small network with thresholds that work, in float32."""
    return make_network(tiny=False, **switches).float()


@pytest.fixture(name="model", scope="module")
def _model():
    """Such a network in evaluation mode, which no test may change."""
    return _network()


def _batch(seed=0, n_queries=1, size_px=(65, 71)):
    return [tensor.float() for tensor in make_batch(2, 1, n_queries, seed=seed, size_px=size_px)]


def _cosine(tensors, others):
    vector, reference = (torch.cat([t.double().flatten() for t in group]) for group in (tensors, others))
    return (vector @ reference / (vector.norm() * reference.norm())).item()


def _training_losses(model, batch, precision):
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    model.zero_grad()
    with mixed_precision(CPU, precision):
        losses = losses_of(model, *batch, prototype_seeds=torch.tensor([1, 2]))
    (losses.query + losses.alignment).mean().backward()
    return losses, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_widening_lifts_half_formats_alone(dtype, wide):
    tensor = torch.ones(3, dtype=dtype)
    assert upcast(tensor).dtype == wide
    assert (upcast(tensor) is tensor) is (dtype == wide)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_only_bf16_turns_products_into_bfloat16_and_full_precision_lifts_it(precision, dtype):
    a = torch.randn(4, 4)
    with mixed_precision(CPU, precision):
        assert (a @ a).dtype == dtype
        with full_precision(a):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32


def test_full_precision_works_where_there_is_no_autocast():
    a = torch.empty(4, 4, device="meta", dtype=torch.bfloat16)
    with full_precision(a):
        assert upcast(a @ a).dtype == torch.float32
    with mixed_precision(a.device, "fp32"):
        assert (a @ a).dtype == torch.bfloat16


def test_half_features_on_a_device_without_autocast_are_widened_too():
    model = _network().to("meta")
    model.mining.bfloat16()
    masks = _batch()[1].to("meta")
    features = torch.empty(2, 1, 8, 17, 18, device="meta", dtype=torch.bfloat16)
    encoded = Encoded(features=features, tau=torch.empty(2, 1, 2, device="meta"))
    state = model.prepare_support(encoded, masks)
    assert state.keys.dtype == torch.bfloat16
    assert {p.region.dtype for p in state.prototypes} == {torch.float32}


def test_what_is_compared_or_summed_stays_float32_while_features_are_bfloat16(monkeypatch):
    # For this test alone, which is about types; the others compare numbers of the whole ResNet-18.
    monkeypatch.setitem(BACKBONES, "resnet18", NarrowResNet)
    model = _network()
    support, masks, query, _ = _batch()
    compared = []
    model.similarity.register_forward_hook(lambda _module, _inputs, out: compared.append(out.dtype))
    with torch.no_grad(), mixed_precision(CPU, "bf16"):
        shots, queries = model.encoder.encode(support), model.encoder.encode(query)
        state = model.prepare_support(shots, masks)
        result = model.segment(state, queries, image_size=query.shape[-2:])
    half = (shots.features, queries.features, state.keys, state.values)
    assert {tensor.dtype for tensor in half} == {torch.bfloat16}
    tensors = [shots.tau, state.tau, state.mask, result.probabilities, result.prior_masks.foreground]
    tensors += [tensor for p in state.prototypes for tensor in (p.global_, p.region)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert compared == [torch.float32] * 3  # priors of both classes, matching of each
    torch.testing.assert_close(result.probabilities.sum(dim=2), torch.ones(2, 1, 65, 71))


@pytest.mark.parametrize("seed", SEEDS)
def test_behind_the_encoder_losses_and_gradients_hardly_notice_bfloat16(model, seed):
    support, masks, query, query_masks = _batch(seed)
    with torch.no_grad():
        shots, queries = model.encoder.encode(support), model.encoder.encode(query)
    parameters = [
        p for n, p in model.named_parameters() if n.startswith(("mining", "matching", "similarity"))
    ]
    results = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        # The same features, of bfloat16's digits.
        features = [e.features.bfloat16().to(dtype).requires_grad_() for e in (shots, queries)]
        with mixed_precision(CPU, precision):
            state = model.prepare_support(Encoded(features[0], shots.tau), masks)
            result = model.segment(state, Encoded(features[1], queries.tau), image_size=query.shape[-2:])
        loss = weighted_cross_entropy(result.logits, query_masks).mean()
        results[precision] = loss.item(), torch.autograd.grad(loss, [*features, *parameters])
    (expected, exact), (loss, gradients) = results["fp32"], results["bf16"]
    assert loss == pytest.approx(expected, rel=0.004)
    for value, reference in zip(gradients, exact, strict=True):
        assert _cosine([value], [reference]) > 0.9


@pytest.mark.parametrize(
    ("frozen_batchnorm", "seed", "size_px"),
    [
        (True, 2, (41, 45)),
        pytest.param(True, 0, (65, 71), marks=WITH_UNITS),
        pytest.param(True, 2, (65, 71), marks=WITH_UNITS),
        pytest.param(False, 4, (65, 71), marks=WITH_UNITS),
    ],
)
def test_training_losses_and_gradients_in_bf16_stay_near_those_of_fp32(frozen_batchnorm, seed, size_px):
    model, batch = _network(frozen_batchnorm=frozen_batchnorm).train(), _batch(seed, size_px=size_px)
    expected, exact = _training_losses(model, batch, "fp32")
    losses, gradients = _training_losses(model, batch, "bf16")
    assert losses.query.dtype == losses.alignment.dtype == losses.prior_areas.dtype == torch.float32
    assert not torch.equal(losses.query, expected.query)
    torch.testing.assert_close(losses.query, expected.query, rtol=0.03, atol=0)
    # Predicted masks of a few pixels more or less are scored here.
    torch.testing.assert_close(losses.alignment, expected.alignment, rtol=0.15, atol=0)
    torch.testing.assert_close(losses.prior_areas, expected.prior_areas, rtol=0, atol=0.03)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert _cosine(gradients.values(), exact.values()) > 0.8
    decoders = [name for name in exact if "decoder" in name]
    assert _cosine([gradients[name] for name in decoders], [exact[name] for name in decoders]) > 0.99


def test_storing_half_weights_changes_convolutions_and_linear_maps_alone():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 2)))
    store_half_weights(module)
    half = {name for name, value in module.state_dict().items() if value.dtype == torch.bfloat16}
    assert half == {"0.weight", "0.bias", "2.0.weight", "2.0.bias"}


def test_a_segmenter_stores_all_weights_in_half_but_those_that_thresholds_need(model):
    segmenter = NetworkSegmenter(copy.deepcopy(model), precision="bf16")
    for name, parameter in segmenter.model.named_parameters():
        is_kept = any(part in name for part in KEPT_WIDE)
        assert parameter.dtype == (torch.float32 if is_kept else torch.bfloat16), name


def _segment(segmenter, batch):
    support, masks, query, _ = batch
    prepared = segmenter.prepare(segmenter.encode([support[0]]), masks[0, 0])
    return segmenter.segment(prepared, segmenter.encode(query[0].split(2)), image_size=(65, 71))


def _dice(mask, other):
    return (2 * (mask & other).sum() / (mask.sum() + other.sum())).item()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_segmenter_in_bf16_agrees_with_one_in_fp32(model, seed):
    batch = _batch(seed, n_queries=3)
    expected = _segment(NetworkSegmenter(copy.deepcopy(model)), batch)
    result = _segment(NetworkSegmenter(copy.deepcopy(model), precision="bf16"), batch)
    assert result.dtype == torch.float32
    assert not torch.equal(result, expected)
    assert (result - expected).abs().max() < 0.12
    assert (result - expected).abs().mean() < 0.015
    assert (expected > 0.5).float().mean() > 0.03
    assert _dice(result > 0.5, expected > 0.5) > 0.93


def test_stored_half_weights_give_exactly_what_autocast_gives(model):
    batch = _batch(n_queries=3)
    casting = NetworkSegmenter(copy.deepcopy(model))
    casting.precision = "bf16"
    stored = NetworkSegmenter(copy.deepcopy(model), precision="bf16")
    assert stored.model.encoder.reduce.weight.dtype != casting.model.encoder.reduce.weight.dtype
    assert torch.equal(_segment(stored, batch), _segment(casting, batch))


def test_tf32_computes_in_float32_on_a_cpu(model):
    batch = _batch(n_queries=2)
    result = _segment(NetworkSegmenter(copy.deepcopy(model), precision="tf32"), batch)
    assert torch.equal(result, _segment(NetworkSegmenter(copy.deepcopy(model)), batch))
