"""The network behind the segmenters' three steps, and the baselines that it must beat."""

import math

import pytest
import torch
from torch import nn

from models.factory import build_network
from models.inference.inspection import inspect_query
from models.inference.segmenters import COSINE_SCALE, CopySegmenter, CosineSegmenter, NetworkSegmenter

SIZE = (33, 37)


@pytest.fixture(name="model", scope="module")
def _model():
    """A small random network."""
    return build_network(seed=0, encoder_weights=None, encoder="resnet18", feature_width=8)


def _images(n, seed=0):
    return torch.randn(n, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


def _mask():
    mask = torch.zeros(SIZE)
    mask[8:25, 5:20] = 1
    return mask


def _segment(segmenter, batches, positions=None):
    support = segmenter.prepare(segmenter.encode([_images(1, seed=1)]), _mask())
    encoding = segmenter.encode(batches)
    if positions is not None:
        encoding = segmenter.take(encoding, torch.tensor(positions))
    return segmenter.segment(support, encoding, image_size=SIZE)


@pytest.mark.parametrize("split", [1, 2, 3, 5])
def test_the_network_gives_what_predict_gives_whatever_the_batches(model, split):
    queries = _images(5)
    with torch.no_grad():
        expected = model.eval().predict(_images(1, seed=1)[None], _mask()[None, None], queries[None])
    result = _segment(NetworkSegmenter(model), queries.split(split))
    assert result.shape == (5, *SIZE)
    torch.testing.assert_close(result, expected[0, :, 1], atol=1e-5, rtol=0)
    # Slices differ, so that an exchanged order would show.
    assert (expected[0, 0, 1] - expected[0, 1, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "expected_area"), [({"prior_form": "contrast"}, None), ({}, 0.0), ({"prior": False}, 1.0)]
)
def test_prior_masks_are_those_of_an_inspection(options, expected_area):
    model = build_network(seed=0, encoder_weights=None, encoder="resnet18", feature_width=8, **options).eval()
    queries = _images(3)
    result = [inspect_query(model, _images(1, seed=1)[0], _mask(), query) for query in queries]
    small = torch.cat([inspection.prior_masks.foreground for inspection in result])
    expected = nn.functional.interpolate(small, SIZE, mode="bilinear", align_corners=True)[:, 0] > 0.5
    segmenter = NetworkSegmenter(model)
    support = segmenter.prepare(segmenter.encode([_images(1, seed=1)]), _mask())
    masks = segmenter.find_prior_masks(support, segmenter.encode([queries]), image_size=SIZE)
    assert masks.shape == (3, *SIZE)
    assert torch.equal(masks, expected)
    area = masks.float().mean().item()
    assert area == expected_area or (expected_area is None and 0 < area < 1)


def test_slices_are_taken_by_position_in_any_order_and_repeatedly(model):
    segmenter = NetworkSegmenter(model)
    queries = _images(4)
    whole = _segment(segmenter, [queries])
    selected = _segment(segmenter, queries.split(3), positions=[3, 0, 0])
    torch.testing.assert_close(selected, whole[[3, 0, 0]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"prior": False}, {"mining": False}, {"prior_form": "contrast"}])
def test_supports_together_give_what_each_gives_alone(options):
    model = build_network(seed=0, encoder_weights=None, encoder="resnet18", feature_width=8, **options)
    segmenter = NetworkSegmenter(model)
    encodings = [segmenter.encode([_images(1, seed=seed)]) for seed in range(1, 7)]
    supports = [segmenter.prepare(encoding, _mask().roll(5 * n, 0)) for n, encoding in enumerate(encodings)]
    # More than are taken at once, and one of two shots, which no other can be joined with.
    two_shots = segmenter.prepare(segmenter.join(encodings[:2]), torch.stack([_mask(), _mask().roll(3, 1)]))
    supports.insert(2, two_shots)
    queries = segmenter.encode([_images(2)])
    result = segmenter.segment_each(supports, queries, image_size=SIZE, per_call=4)
    alone = torch.stack([segmenter.segment(support, queries, image_size=SIZE) for support in supports])
    torch.testing.assert_close(result, alone, rtol=0, atol=1e-6)
    assert (alone[0] - alone[1]).abs().max() > 1e-4


def test_the_network_is_put_in_evaluation_mode_and_left_as_it_was(model):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    segmenter = NetworkSegmenter(model)
    assert not any(module.training for module in model.modules())
    first, again = (_segment(segmenter, [_images(2)]) for _ in range(2))
    assert torch.equal(first, again)
    assert not first.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class _SignEncoder(nn.Module):
    """Gives bright pixels one feature direction and dark ones another, at lengths that must not matter."""

    def forward(self, images):
        bright = (images > 0).float()
        features = torch.cat([3 * bright, 0.5 * (1 - bright)], dim=1)
        return features, torch.zeros(len(images), 2)


def _half_bright(side):
    image = -torch.ones(1, 1, 4, 6)
    image[..., :3] *= -1 if side == "left" else 1
    image[..., 3:] *= -1 if side == "right" else 1
    return image


def test_cosine_matching_separates_two_clusters_of_features():
    segmenter = CosineSegmenter(_SignEncoder())
    mask = torch.zeros(4, 6)
    mask[:, :3] = 1
    support = segmenter.prepare(segmenter.encode([_half_bright("left")]), mask)
    # The mean features: foreground, the second row, is all bright.
    torch.testing.assert_close(support, torch.tensor([[0.0, 0.5], [3.0, 0.0]]))
    encoding = segmenter.encode([_half_bright("right"), _half_bright("left")])
    probabilities = segmenter.segment(support, encoding, image_size=(4, 6))
    # Cosines are 1 with one prototype and 0 with the other.
    sure = 1 / (1 + math.exp(-COSINE_SCALE))
    expected = torch.full((2, 4, 6), 1 - sure)
    expected[0, :, 3:] = sure
    expected[1, :, :3] = sure
    torch.testing.assert_close(probabilities, expected)


def test_cosine_matching_returns_the_requested_slices_and_sizes():
    segmenter = CosineSegmenter(_SignEncoder())
    support = segmenter.prepare(segmenter.encode([_half_bright("left")]), torch.ones(8, 12))
    encoding = segmenter.encode([_half_bright("right"), _half_bright("left")])
    encoded = segmenter.take(encoding, torch.tensor([1, 1, 0]))
    result = segmenter.segment(support, encoded, image_size=(8, 12))
    assert result.shape == (3, 8, 12)
    assert torch.equal(result[0], result[1])
    assert not torch.equal(result[0], result[2])


def test_cosine_matching_after_an_empty_mask_finds_nothing():
    segmenter = CosineSegmenter(_SignEncoder())
    support = segmenter.prepare(segmenter.encode([_half_bright("left")]), torch.zeros(4, 6))
    result = segmenter.segment(support, segmenter.encode([_half_bright("right")]), image_size=(4, 6))
    assert (result < 0.5).all()


def test_cosine_matching_uses_the_encoders_running_statistics(model):
    model.train()
    segmenter = CosineSegmenter(model.encoder)
    whole = _segment(segmenter, [_images(4)])
    torch.testing.assert_close(_segment(segmenter, _images(4).split(1)), whole, atol=1e-5, rtol=0)


def test_copying_returns_the_mask_for_every_slice():
    result = _segment(CopySegmenter(), _images(5).split(2))
    assert result.shape == (5, *SIZE)
    assert all(torch.equal(mask, _mask()) for mask in result)
    assert len(_segment(CopySegmenter(), [_images(5)], positions=[4, 1])) == 2


def test_a_copied_mask_fits_the_requested_size():
    segmenter = CopySegmenter()
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    support = segmenter.prepare(segmenter.encode([_images(1)]), mask)
    result = segmenter.segment(support, segmenter.encode([_images(1)]), image_size=(5, 5))
    # Corner pixels stay in place; halfway between 1 and 0 lies 1/2.
    row = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.0])
    torch.testing.assert_close(result[0], row[:, None] * row[None])


def _shots():
    """Two support images, and a mask for each."""
    second = torch.zeros(SIZE)
    second[12:30, 15:35] = 1
    return _images(2, seed=1), torch.stack([_mask(), second])


def test_several_shots_of_the_network_are_those_of_predict(model):
    images, masks = _shots()
    queries = _images(2)
    with torch.no_grad():
        expected = model.eval().predict(images[None], masks[None], queries[None])[0, :, 1]
    segmenter = NetworkSegmenter(model)
    joined = segmenter.join([segmenter.encode([image[None]]) for image in images])
    support = segmenter.prepare(joined, masks)
    result = segmenter.segment(support, segmenter.encode([queries]), image_size=SIZE)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    other = segmenter.prepare(joined, masks.flip(0))
    assert (
        segmenter.segment(other, segmenter.encode([queries]), image_size=SIZE) - result
    ).abs().max() > 1e-4


def test_cosine_matching_takes_the_mean_features_of_all_shots():
    segmenter = CosineSegmenter(_SignEncoder())
    masks = torch.zeros(2, 4, 6)
    masks[0, :, :3] = 1  # 12 bright pixels
    masks[1, :, 2:] = 1  # 12 bright and 4 dark pixels; 8 dark ones remain
    joined = segmenter.join([segmenter.encode([_half_bright(side)]) for side in ("left", "right")])
    support = segmenter.prepare(joined, masks)
    foreground = [3 * 24 / 28, 0.5 * 4 / 28]
    torch.testing.assert_close(support, torch.tensor([[0.0, 0.5], foreground]))


def test_copying_several_shots_returns_their_mean_mask():
    segmenter = CopySegmenter()
    images, masks = _shots()
    joined = segmenter.join([segmenter.encode([image[None]]) for image in images])
    result = segmenter.segment(
        segmenter.prepare(joined, masks), segmenter.encode([_images(3)]), image_size=SIZE
    )
    assert len(result) == 3
    torch.testing.assert_close(result[2], masks.mean(dim=0))
    assert {0.0, 0.5, 1.0} == set(result.flatten().tolist())
    assert joined.n_slices == 2


def test_a_single_shot_is_the_same_with_and_without_its_axis(model):
    for segmenter in (NetworkSegmenter(model), CosineSegmenter(_SignEncoder()), CopySegmenter()):
        encoding = segmenter.encode([_images(1)])
        assert segmenter.join([encoding]) is encoding or isinstance(segmenter, CopySegmenter)
        result = [
            segmenter.segment(segmenter.prepare(encoding, mask), encoding, image_size=SIZE)
            for mask in (_mask(), _mask()[None])
        ]
        assert torch.equal(*result)


def test_copied_masks_alone_do_not_depend_on_the_query():
    assert not CopySegmenter.uses_queries
    assert CosineSegmenter.uses_queries
    assert NetworkSegmenter.uses_queries
