"""Which windows and pixels become region prototypes: limits of area and number, spacing, random seeds."""

from itertools import pairwise

import pytest
import torch

from models.prototypes import extract_prototypes
from tests.models import literal
from tests.models.prototype_cases import (
    CLASSES,
    LIMITS,
    box,
    coordinates,
    corners_taken,
    disc,
    extract,
    random_features,
    tile,
)


@pytest.mark.parametrize(
    ("class_index", "limit_px"), [(literal.FOREGROUND, 244), (literal.BACKGROUND, 256)], ids=["fg", "bg"]
)
def test_a_window_of_a_large_class_counts_from_the_absolute_limit_on(class_index, limit_px):
    # A chequered image is so large a class that a hundredth of it exceeds the limit, and fills no window.
    rows, columns = torch.meshgrid(torch.arange(257), torch.arange(257), indexing="ij")
    for area_px, n_windows in ((limit_px, 1), (limit_px - 1, 0)):
        mask = ((rows + columns) % 2).double()
        mask[40:56, 160:176] = tile((16, 16), area_px)
        assert mask.sum() / 100 > 256
        assert len(literal.counting_windows(mask, class_index)) == n_windows
        corners = corners_taken(mask, class_index)
        assert (corners == [(40, 160)]) is (n_windows == 1)


@pytest.mark.parametrize("class_index", CLASSES)
def test_a_window_of_a_small_class_counts_from_a_hundredth_of_it_on(class_index):
    # 5000 px in all: 50 of them must lie in a window.
    for area_px, counts in ((50, True), (49, False)):
        mask = box((129, 129), (0, 99), (0, 50))
        mask[0, 50 : 50 + 50 - area_px] = 1
        mask[104:112, 112:120] = tile((8, 8), area_px)
        assert mask.sum() == 5000
        _, region = extract(coordinates((129, 129)), mask, class_index)
        assert (region[:, 1].max() > 100).item() is counts


def test_evaluation_takes_evenly_spaced_windows_in_raster_order():
    corners = corners_taken(torch.ones(257, 257, dtype=torch.float64), literal.FOREGROUND)
    positions = [top // 8 * 31 + left // 8 for top, left in corners]
    assert len(positions) == 150
    assert positions[0] == 0
    steps = [later - earlier for earlier, later in pairwise(positions)]
    assert set(steps) == {6, 7}  # 961 / 150 is 6.4
    assert 961 - positions[-1] in (6, 7)


@pytest.mark.parametrize(("size_px", "n_windows"), [((112, 104), 150), ((88, 128), 150), ((88, 136), 150)])
def test_windows_are_dropped_from_151_on_only(size_px, n_windows):
    mask = torch.ones(size_px, dtype=torch.float64)
    in_all = len(literal.counting_windows(mask, literal.FOREGROUND))
    assert len(corners_taken(mask, literal.FOREGROUND)) == min(in_all, n_windows)


def test_stand_in_pixels_are_at_most_a_hundred_and_lie_in_the_mask():
    mask = box((71, 64), (64, 71), (5, 60))
    _, region = extract(coordinates((71, 64)), mask, literal.FOREGROUND)
    pixels = {tuple(position.round().int().tolist()) for position in region}
    assert len(pixels) == len(region) == 100
    assert all(mask[pixel] == 1 for pixel in pixels)


def _draw(size_px, mask, seeds, class_index=literal.FOREGROUND):
    """Region prototypes of coordinates (B, P, 2), drawn with one seed per episode."""
    features = coordinates(size_px).float().expand(len(seeds), -1, -1, -1, -1)
    masks = mask.expand(len(seeds), 1, *size_px)
    result = extract_prototypes(features, masks, area_limit=LIMITS[class_index], seeds=torch.tensor(seeds))
    return result.region, result.valid


@pytest.mark.parametrize(
    ("size_px", "mask", "n_candidates", "n_drawn"),
    [
        ((112, 136), torch.ones(112, 136, dtype=torch.float64), 13 * 16, 150),
        ((71, 64), box((71, 64), (66, 71), (4, 44)), 200, 100),
    ],
    ids=["windows", "stand-in pixels"],
)
def test_training_draws_uniformly_without_replacement(size_px, mask, n_candidates, n_drawn):
    n_draws = 80
    region, valid = _draw(size_px, mask, list(range(n_draws)))
    counts = {}
    for positions, counting in zip(region, valid, strict=True):
        drawn = {tuple(position) for position in (positions[counting] * 2).round().int().tolist()}
        assert len(drawn) == counting.sum() == n_drawn
        for position in drawn:
            counts[position] = counts.get(position, 0) + 1
    assert len(counts) == n_candidates
    share = n_drawn / n_candidates
    deviation = (n_draws * share * (1 - share)) ** 0.5
    assert all(abs(count - n_draws * share) < 5 * deviation for count in counts.values())


def test_a_draw_takes_literal_window_means():
    features, mask = random_features(3, 40, 40), torch.ones(160, 160, dtype=torch.float64)
    _, region = extract(features, mask, literal.FOREGROUND, seeds=torch.tensor([5]))
    means = literal.window_means(features, mask, literal.counting_windows(mask, literal.FOREGROUND))
    nearest = (region[:, None] - means).abs().amax(dim=-1).min(dim=1)
    assert nearest.values.max() < 1e-6
    assert nearest.indices.unique().numel() == 150


def test_where_all_windows_are_used_a_draw_changes_their_order_at_most():
    features, mask = random_features(3, 17, 17), disc((65, 65), (30, 30), 20)
    _, drawn = extract(features, mask, literal.FOREGROUND, seeds=torch.tensor([5]))
    _, ordered = extract(features, mask, literal.FOREGROUND)
    torch.testing.assert_close(drawn[drawn[:, 0].argsort()], ordered[ordered[:, 0].argsort()])


def test_an_episodes_draw_depends_on_its_seed_alone():
    size_px, mask = (112, 136), torch.ones(112, 136, dtype=torch.float64)
    together, _ = _draw(size_px, mask, [4, 9, 4])
    alone, _ = _draw(size_px, mask, [9])
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


def test_a_draw_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    _draw((112, 136), torch.ones(112, 136, dtype=torch.float64), [4])
    extract(random_features(3, 40, 40), torch.ones(160, 160, dtype=torch.float64), literal.FOREGROUND)
    assert torch.equal(before, torch.get_rng_state())
