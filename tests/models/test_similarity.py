"""Angle-and-magnitude similarity against its formula."""

import math

import pytest
import torch

from models.similarity import Similarity, cosine_similarity, pooling_weights, sharpness
from tests.models import literal


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _module(**kwargs):
    return Similarity(**kwargs).double()


def test_equal_vectors_score_one_plus_alpha_but_for_the_distances_floor():
    prototype = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    score = _module()(prototype, prototype.T)
    distance = 1e-6  # the root of the floor, 1e-12
    assert score.item() == pytest.approx(1 + 0.5 * 2 / (1 + math.exp(3.5 * distance)), abs=1e-8)


def test_opposite_unit_vectors_score_the_hand_computed_value():
    prototype = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    score = _module()(prototype, -prototype.T)
    distance = math.sqrt((2**2 + 0) / 2)
    assert score.item() == pytest.approx(-1 + 0.5 * 2 / (1 + math.exp(3.5 * distance)), abs=1e-12)


def test_alpha_starts_at_a_half_and_is_learned():
    alpha = dict(Similarity().named_parameters())["alpha"]
    assert alpha.tolist() == [0.5]


def test_length_matters_to_the_magnitude_only():
    prototype, features = _random(1, 6), _random(6, 9, seed=1)
    by_angle = _module(magnitude=False)
    torch.testing.assert_close(by_angle(prototype, features), by_angle(3 * prototype, 0.2 * features))
    assert (_module()(prototype, features) - _module()(3 * prototype, features)).abs().min() > 1e-4


@pytest.mark.parametrize("magnitude", [True, False])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_all_pairs_equal_the_literal_differences(magnitude, scale):
    prototypes, features = scale * _random(7, 5), scale * _random(5, 3, 4, seed=1)
    module = _module(magnitude=magnitude)
    torch.nn.init.constant_(module.alpha, 0.8)
    expected = literal.similarities(prototypes, features, module.alpha, magnitude=magnitude)
    torch.testing.assert_close(
        module(prototypes, features.flatten(1)), expected.flatten(1), rtol=0, atol=1e-10
    )


def test_gradients_equal_the_literal_ones():
    prototypes, features = _random(7, 5).requires_grad_(), _random(5, 3, 4, seed=1).requires_grad_()
    module, cotangent = _module(), _random(7, 12, seed=2)
    inputs = (prototypes, features, module.alpha)
    expected = literal.similarities(prototypes, features, module.alpha).flatten(1)
    got = torch.autograd.grad((module(prototypes, features.flatten(1)) * cotangent).sum(), inputs)
    torch.testing.assert_close(got, torch.autograd.grad((expected * cotangent).sum(), inputs))


def test_gradients_stay_finite_at_equality_and_at_zero_vectors():
    prototypes = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0]], requires_grad=True)
    score = Similarity()(prototypes, features)
    gradients = torch.autograd.grad(score.sum(), (prototypes, features))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_zero_prototype_has_no_angle():
    features = _random(5, 4)
    by_angle = _module(magnitude=False)(torch.zeros(1, 5, dtype=torch.float64), features)
    assert by_angle.eq(0).all()


def test_single_precision_loses_little_near_equality():
    # |f|^2 + |p|^2 - 2 f.p cancels there: rms 2 times the root of float32's epsilon is 7e-4 of distance.
    prototypes = 2 * _random(4, 512)
    features = (prototypes + 1e-3 * _random(4, 512, seed=1)).T.contiguous()
    single = Similarity()(prototypes.float(), features.float())
    torch.testing.assert_close(single.double(), _module()(prototypes, features), rtol=0, atol=3e-3)


def _uncentred(prototypes, features, alpha):
    """The same formula from the whole vectors' squares."""
    square = prototypes.square().sum(1)[:, None] + features.square().sum(0) - 2 * prototypes @ features
    distance = (square / len(features)).clamp(min=1e-12).sqrt()
    cosine = torch.nn.functional.cosine_similarity(prototypes[:, :, None], features[None], dim=1)
    return cosine + alpha * 2 * torch.sigmoid(-3.5 * distance)


@pytest.mark.parametrize("distance", [0.0, 1e-3, 1e-2])
def test_features_far_from_the_origin_keep_their_digits_near_equality(distance):
    # Features after a ReLU have a large mean, which the plain sum of squares pays for.
    prototypes = (3 + 0.5 * _random(6, 512)).float()
    features = (prototypes + distance * _random(6, 512, seed=1)).float().T.contiguous()
    exact = _module()(prototypes.double(), features.double())
    with torch.no_grad():
        error = (Similarity()(prototypes, features) - exact).abs().max().item()
        of_plain = (_uncentred(prototypes, features, 0.5) - exact).abs().max().item()
    assert error < 5e-4
    assert of_plain > 4 * error


def test_a_zero_prototype_has_no_angle_in_single_precision_among_features_with_a_large_mean():
    features = (3 + 0.5 * _random(512, 40)).float()
    by_angle = Similarity(magnitude=False)(torch.zeros(2, 512), features)
    assert by_angle.eq(0).all()
    assert cosine_similarity(torch.zeros(512), features).eq(0).all()
    distance = features.double().square().mean(dim=0).sqrt()
    expected = 0.5 * 2 * torch.sigmoid(-3.5 * distance)
    score = Similarity()(torch.zeros(2, 512), features)
    torch.testing.assert_close(score.double(), expected.expand(2, -1), rtol=0, atol=1e-6)


def test_leading_axes_broadcast():
    prototypes, features = _random(2, 1, 7, 5), _random(2, 3, 5, 4, seed=1)
    module = _module()
    scores = module(prototypes, features)
    assert scores.shape == (2, 3, 7, 4)
    torch.testing.assert_close(scores[1, 2], module(prototypes[1, 0], features[1, 2]))


def test_cosine_of_one_prototype_is_the_textbook_one():
    prototypes, features = _random(2, 3, 5), _random(2, 3, 5, 4, seed=1)
    expected = torch.nn.functional.cosine_similarity(
        prototypes[..., None].expand_as(features), features, dim=2
    )
    torch.testing.assert_close(cosine_similarity(prototypes, features), expected)


def test_sharpness_runs_from_one_to_eleven():
    tau = torch.tensor([[-100.0, 5.0], [0.0, 5.0], [100.0, 5.0]])
    assert sharpness(tau).tolist() == [1.0, 6.0, 11.0]


def test_pooling_weights_equal_the_literal_softmax_over_the_prototypes_that_count():
    similarity, tau = _random(6, 3, 4), torch.tensor([0.3, 9.0], dtype=torch.float64)
    valid = torch.tensor([True, False, True, True, False, True])
    weights = pooling_weights(similarity.flatten(1), sharpness(tau), valid)
    expected = literal.attention_weights(similarity[valid], tau).flatten(1)
    torch.testing.assert_close(weights[valid], expected)
    assert weights[~valid].eq(0).all()


def test_pooling_weights_are_zero_where_no_prototype_counts():
    similarity = _random(2, 3, 4).requires_grad_()
    valid = torch.tensor([[False] * 3, [True] * 3])
    weights = pooling_weights(similarity, torch.ones(2, dtype=torch.float64), valid)
    assert weights[0].eq(0).all()
    torch.testing.assert_close(weights[1].sum(dim=0), torch.ones(4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(weights.square().sum(), similarity)
    assert gradient.isfinite().all()
