"""Prototypes from weights against prototypes from upsampled features and visited windows."""

import pytest
import torch
import torch.nn.functional as F

from models.prototypes import FOREGROUND_AREA_LIMIT, bilinear_matrix, extract_prototypes
from tests.models import literal
from tests.models.prototype_cases import CLASSES, box, coordinates, disc, extract, random_features

MASKS = {
    "a blob": ((257, 257), disc((257, 257), (120, 141), 37)),
    "two organs' worth on an odd, oblong image": (
        (97, 131),
        disc((97, 131), (30, 30), 14) + disc((97, 131), (60, 100), 22),
    ),
    "speckle": ((65, 83), (torch.rand(65, 83, generator=torch.Generator().manual_seed(3)) < 0.1).double()),
    "five pixels, smaller than a window": ((64, 64), box((64, 64), (20, 21), (30, 35))),
    "one pixel": ((49, 51), box((49, 51), (40, 41), (3, 4))),
    "only in the rest at the bottom": ((71, 64), box((71, 64), (64, 71), (5, 60))),
    "only in the rest at the right": ((64, 71), box((64, 71), (1, 9), (65, 71))),
    "the last pixel alone": ((71, 71), box((71, 71), (70, 71), (70, 71))),
    "a slim image, lower than a window": ((11, 90), box((11, 90), (2, 9), (10, 70))),
    "an image smaller than a window": ((12, 13), box((12, 13), (2, 9), (3, 11))),
    "a one-pixel image": ((1, 1), torch.ones(1, 1, dtype=torch.float64)),
    "an image of exactly one window": ((16, 16), disc((16, 16), (8, 8), 5)),
    "empty": ((65, 65), torch.zeros(65, 65, dtype=torch.float64)),
    "full": ((65, 65), torch.ones(65, 65, dtype=torch.float64)),
    "full, with more than 150 windows": ((257, 257), torch.ones(257, 257, dtype=torch.float64)),
}


@pytest.mark.parametrize("class_index", CLASSES)
@pytest.mark.parametrize("name", MASKS)
def test_prototypes_equal_the_literal_ones(name, class_index):
    size_px, mask = MASKS[name]
    if class_index == literal.BACKGROUND:
        mask = 1 - mask
    features = random_features(3, *(-(-n_px // 4) for n_px in size_px))
    global_, region = extract(features, mask, class_index)
    # The bilinear weights are held in float32, hence not 1e-12.
    torch.testing.assert_close(global_, literal.global_prototype([features], [mask]), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        region, literal.region_prototypes(features, mask, class_index), rtol=0, atol=2e-6
    )


def test_every_case_of_the_list_above_matches_its_name():
    n_windows = {
        name: len(literal.counting_windows(mask, literal.FOREGROUND)) for name, (_, mask) in MASKS.items()
    }
    without = {name for name, count in n_windows.items() if count == 0}
    assert without == {
        "only in the rest at the bottom",
        "only in the rest at the right",
        "the last pixel alone",
        "a slim image, lower than a window",
        "an image smaller than a window",
        "a one-pixel image",
        "empty",
    }
    assert n_windows["full, with more than 150 windows"] == 31 * 31
    assert MASKS["only in the rest at the bottom"][1].sum() > 100


def test_constant_features_are_every_prototype():
    features = torch.tensor([2.0, -3.0], dtype=torch.float64)[:, None, None].expand(2, 10, 10)
    mask = disc((40, 40), (20, 20), 9)
    global_, region = extract(features, mask, literal.FOREGROUND)
    area = mask.sum().item()
    assert global_.tolist() == pytest.approx([2 * area / (area + 1e-5), -3 * area / (area + 1e-5)], rel=1e-6)
    torch.testing.assert_close(
        region, torch.tensor([[2.0, -3.0]]).double().expand_as(region), rtol=1e-6, atol=0
    )


def test_a_full_image_of_coordinates_gives_the_windows_centres():
    _, region = extract(coordinates((32, 40)), torch.ones(32, 40, dtype=torch.float64), literal.FOREGROUND)
    expected = [[top + 7.5, left + 7.5] for top in (0, 8, 16) for left in (0, 8, 16, 24)]
    torch.testing.assert_close(region, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)


def test_shots_share_one_global_prototype_and_bring_their_own_regions():
    features = random_features(1, 3, 3, 17, 17)
    large, small = disc((65, 65), (30, 30), 20), disc((65, 65), (20, 44), 4)
    masks = torch.stack([large, small, box((65, 65), (64, 65), (10, 30))])[None]
    result = extract_prototypes(features, masks, area_limit=FOREGROUND_AREA_LIMIT)
    torch.testing.assert_close(
        result.global_[0], literal.global_prototype(features[0], masks[0]), rtol=0, atol=1e-6
    )
    expected = [literal.region_prototypes(features[0, shot], masks[0, shot], 1) for shot in range(3)]
    torch.testing.assert_close(result.region[0][result.valid[0]], torch.cat(expected), rtol=0, atol=1e-6)


def test_an_empty_shot_beside_a_full_one_adds_nothing():
    features = random_features(1, 2, 3, 17, 17)
    masks = torch.stack([disc((65, 65), (30, 30), 20), torch.zeros(65, 65, dtype=torch.float64)])[None]
    both = extract_prototypes(features, masks, area_limit=FOREGROUND_AREA_LIMIT)
    first = extract_prototypes(features[:, :1], masks[:, :1], area_limit=FOREGROUND_AREA_LIMIT)
    torch.testing.assert_close(both.global_, first.global_)
    torch.testing.assert_close(both.region[both.valid], first.region[first.valid])


def test_an_episode_gives_alone_what_it_gives_in_a_batch():
    features = random_features(4, 1, 3, 17, 17)
    masks = torch.stack([MASKS[name][1] for name in ("empty", "full")] + [disc((65, 65), (9, 50), 8)] * 2)
    masks[3] = box((65, 65), (64, 65), (0, 40))
    batch = extract_prototypes(features, masks[:, None], area_limit=FOREGROUND_AREA_LIMIT)
    for episode in range(4):
        alone = extract_prototypes(
            features[episode, None], masks[episode, None, None], area_limit=FOREGROUND_AREA_LIMIT
        )
        torch.testing.assert_close(batch.global_[episode], alone.global_[0])
        assert torch.equal(batch.valid[episode], alone.valid[0])
        torch.testing.assert_close(batch.region[episode], alone.region[0])


@pytest.mark.parametrize("size_px", [(12, 13), (65, 65), (257, 257)])
def test_the_number_of_rows_depends_on_the_shapes_alone(size_px):
    features = random_features(1, 1, 2, *(-(-n_px // 4) for n_px in size_px))
    shapes = set()
    for mask in (torch.zeros(size_px), torch.ones(size_px), box(size_px, (3, 7), (2, 9))):
        result = extract_prototypes(features, mask[None, None], area_limit=FOREGROUND_AREA_LIMIT)
        assert result.valid.dtype == torch.bool
        assert result.region.isfinite().all()
        shapes.add((result.region.shape, result.valid.shape))
    assert len(shapes) == 1


def test_an_empty_mask_has_a_zero_global_prototype_and_no_region_ones():
    global_, region = extract(random_features(3, 17, 17), torch.zeros(65, 65), literal.FOREGROUND)
    assert global_.tolist() == [0, 0, 0]
    assert len(region) == 0


def test_gradients_equal_the_literal_ones():
    features, mask = random_features(3, 13, 12).requires_grad_(), disc((49, 47), (20, 25), 13)
    global_, region = extract(features, mask, literal.FOREGROUND)
    expected = (
        literal.global_prototype([features], [mask]),
        literal.region_prototypes(features, mask, literal.FOREGROUND),
    )
    cotangents = (random_features(3, seed=1), random_features(*region.shape, seed=2))
    (got,) = torch.autograd.grad([global_, region], features, cotangents)
    (expected_gradient,) = torch.autograd.grad(expected, features, cotangents)
    torch.testing.assert_close(got, expected_gradient, rtol=0, atol=1e-6)


def test_inputs_stay_as_they_were():
    features, mask = random_features(1, 1, 3, 17, 17), disc((65, 65), (30, 30), 20)[None, None]
    copies = features.clone(), mask.clone()
    extract_prototypes(features, mask, area_limit=FOREGROUND_AREA_LIMIT)
    assert torch.equal(features, copies[0])
    assert torch.equal(mask, copies[1])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_masks_of_any_dtype_mean_the_same(dtype):
    features, mask = random_features(3, 17, 17).float(), disc((65, 65), (30, 30), 20)
    _, expected = extract(features, mask.float(), literal.FOREGROUND)
    _, region = extract(features, mask.to(dtype), literal.FOREGROUND)
    assert torch.equal(region, expected)


@pytest.mark.parametrize(
    ("n_out", "n_in"), [(257, 65), (256, 64), (97, 25), (13, 4), (5, 2), (1, 1), (4, 1), (1, 3)]
)
def test_the_bilinear_matrix_upsamples_as_torch_does(n_out, n_in):
    values = random_features(1, 1, n_in)
    expected = F.interpolate(values[..., None], size=(n_out, 1), mode="bilinear", align_corners=True)
    matrix = bilinear_matrix(n_out, n_in)
    torch.testing.assert_close(matrix.double() @ values[0, 0], expected[0, 0, :, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(n_out))
