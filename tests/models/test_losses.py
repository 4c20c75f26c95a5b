"""The weighted cross entropy against its definition."""

import math

import pytest
import torch

from models.losses import describe_failure, weighted_cross_entropy
from tests.models import literal


def _probabilities(*shape, seed=0):
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(dim=2)


def _loss(probabilities, masks):
    """The loss of logits that give these probabilities."""
    return weighted_cross_entropy(probabilities.log(), masks)


def _masks(*shape, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.3).double()


def test_two_pixels_score_the_hand_computed_weighted_mean():
    probabilities = torch.tensor([[0.8, 0.4], [0.2, 0.6]])[None, None, :, None]  # (1, 1, 2, 1, 2)
    masks = torch.tensor([[[[0.0, 1.0]]]])
    expected = -(0.1 * math.log(0.8) + 1.0 * math.log(0.6)) / 1.1
    assert _loss(probabilities, masks).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_image_equals_the_literal_sum_over_its_pixels(dtype):
    probabilities, masks = _probabilities(2, 3, 2, 17, 13), _masks(2, 3, 17, 13)
    masks[0, 1, :5] = 255
    losses = _loss(probabilities.to(dtype), masks.to(dtype))
    assert losses.shape == (2, 3)
    for episode in range(2):
        for query in range(3):
            expected = literal.segmentation_loss(probabilities[episode, query], masks[episode, query])
            assert losses[episode, query].item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_integer_mask_scores_like_a_floating_one():
    probabilities, masks = _probabilities(1, 1, 2, 9, 9), _masks(1, 1, 9, 9)
    masks[..., 0] = 255
    assert torch.equal(_loss(probabilities, masks), _loss(probabilities, masks.long()))
    assert torch.equal(_loss(probabilities, masks), _loss(probabilities, masks.to(torch.uint8)))


def test_ignored_pixels_change_nothing_and_get_no_gradient():
    probabilities, masks = _probabilities(1, 1, 2, 6, 7).requires_grad_(), _masks(1, 1, 6, 7)
    masks[..., :3] = 255
    loss = _loss(probabilities, masks)
    torch.testing.assert_close(loss, _loss(probabilities[..., 3:], masks[..., 3:]))
    (gradient,) = torch.autograd.grad(loss.sum(), probabilities)
    assert gradient[..., :3].eq(0).all()
    assert gradient[..., 3:].ne(0).any()


def test_an_image_of_ignored_pixels_scores_zero_and_spoils_no_other():
    probabilities, masks = _probabilities(1, 2, 2, 6, 7), _masks(1, 2, 6, 7)
    masks[0, 0] = 255
    losses = _loss(probabilities, masks)
    assert losses[0, 0].item() == 0
    assert torch.equal(losses[:, 1:], _loss(probabilities[:, 1:], masks[:, 1:]))


def test_certain_and_wrong_is_finite():
    eps = torch.finfo(torch.float32).eps
    probabilities = torch.tensor([1.0, 0.0])[None, None, :, None, None].expand(1, 1, 2, 4, 4)
    loss = _loss(probabilities, torch.ones(1, 1, 4, 4))
    assert loss.item() == pytest.approx(-math.log(eps), rel=1e-5)


def test_certain_and_right_costs_next_to_nothing():
    probabilities = torch.tensor([1.0, 0.0])[None, None, :, None, None].expand(1, 1, 2, 4, 4)
    loss = _loss(probabilities, torch.zeros(1, 1, 4, 4))
    assert 0 < loss.item() < 1e-6


def test_gradients_equal_the_literal_ones():
    logits, masks = _probabilities(1, 1, 2, 9, 8).log().requires_grad_(), _masks(1, 1, 9, 8)
    (got,) = torch.autograd.grad(weighted_cross_entropy(logits, masks).sum(), logits)
    expected_loss = literal.segmentation_loss(logits.softmax(dim=2)[0, 0], masks[0, 0])
    (expected,) = torch.autograd.grad(expected_loss, logits)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (1.0, "in any episode, so the network segments nothing"),
        (0.97, "in 97% of the last episodes"),
        (0.5, None),
    ],
)
def test_a_training_that_ends_without_predictions_gets_a_warning(share, words):
    failure = describe_failure({"empty_predictions": share})
    assert failure is None if words is None else words in failure
