"""Pictures of episodes: what lies where, and in which colour."""

import numpy as np
import torch

from dataloaders.episode_pictures import (
    CAPTION_PX,
    GAP_PX,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    add_caption,
    draw_episode,
    draw_heat,
    draw_regions,
    draw_slice,
    stack_pictures,
)
from util.io.slice_pictures import rgb


def _square(first, last, size=32):
    mask = np.zeros((size, size), np.float32)
    mask[first:last, first:last] = 1
    return mask


def _coloured(picture, colour):
    return np.isclose(picture, rgb(colour), atol=1e-6).all(axis=-1)


def test_an_outline_lies_on_the_rim_of_its_mask():
    picture = draw_slice(
        np.random.default_rng(0).normal(size=(32, 32)), [(_square(8, 16), TRUTH_COLOUR)], side_px=64
    )
    assert picture.shape == (64, 64, 3)
    rows, columns = np.nonzero(_coloured(picture, TRUTH_COLOUR))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 31, 16, 31)
    assert not _coloured(picture, TRUTH_COLOUR)[20:28, 20:28].any()


def test_slices_keep_their_aspect_ratio():
    assert draw_slice(np.arange(12.0).reshape(3, 4), side_px=40).shape == (30, 40, 3)


def test_an_episode_shows_shots_query_and_query_with_masks():
    generator = torch.Generator().manual_seed(0)
    episode = {
        "support_images": torch.randn(2, 1, 32, 32, generator=generator),
        "support_masks": torch.from_numpy(np.stack([_square(2, 8), _square(4, 12)])),
        "query_images": torch.randn(1, 1, 32, 32, generator=generator),
        "query_masks": torch.from_numpy(_square(10, 20)[None]).long(),
    }
    picture = draw_episode(episode, prediction=_square(20, 28), side_px=64)
    assert picture.shape == (64, 4 * 64 + 3 * GAP_PX, 3)
    tiles = [picture[:, i * (64 + GAP_PX) : i * (64 + GAP_PX) + 64] for i in range(4)]
    truth = [_coloured(tile, TRUTH_COLOUR) for tile in tiles]
    assert [result.any() for result in truth] == [True, True, False, True]
    assert [np.nonzero(truth[i])[0].min() for i in (0, 1, 3)] == [4, 8, 20]
    assert [_coloured(tile, PREDICTION_COLOUR).any() for tile in tiles] == [False, False, False, True]
    assert not _coloured(draw_episode(episode, side_px=64), PREDICTION_COLOUR).any()


def test_heat_is_strongest_at_the_largest_value_and_leaves_zeros_grey():
    image = np.random.default_rng(0).normal(size=(32, 32))
    picture = draw_heat(image, np.array([[0.0, 2.0], [0.0, 1.0]]), side_px=64)
    plain = draw_slice(image, side_px=64)
    np.testing.assert_array_equal(picture[:, :32], plain[:, :32])
    strength = [np.abs(picture - plain)[rows, 32:].mean() for rows in (slice(0, 32), slice(32, 64))]
    assert strength[0] > strength[1] > 0
    np.testing.assert_array_equal(draw_heat(image, np.zeros((2, 2)), side_px=64), plain)


def test_a_region_is_marked_at_its_centre():
    picture = draw_regions(
        np.arange(1024.0).reshape(32, 32), _square(0, 1), np.array([[8, 16, 16]]), side_px=64
    )
    rows, columns = np.nonzero(_coloured(picture, PREDICTION_COLOUR))
    assert (rows.mean(), columns.mean()) == (32, 48)


def test_a_caption_lies_above_the_picture():
    picture = add_caption(np.zeros((10, 100, 3), np.float32), "scan 3")
    assert picture.shape == (10 + CAPTION_PX, 100, 3)
    assert picture[:CAPTION_PX].max() > 0.5
    assert picture[CAPTION_PX:].max() == 0


def test_pictures_are_stacked_with_gaps():
    white = np.ones((2, 3, 3), np.float32)
    below = stack_pictures([white, white], axis=0)
    assert below.shape == (4 + GAP_PX, 3, 3)
    assert below[:, 0, 0].tolist() == [1, 1, *[0] * GAP_PX, 1, 1]
