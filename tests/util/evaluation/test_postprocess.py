"""One component without holes: by hand, by properties, and against a flood fill in plain loops."""

import itertools

import numpy as np
import pytest

from util.evaluation.postprocess import keep_largest_component, largest_component


def _probabilities(*slices):
    """Read slices of rows such as `"9.2"`: digits are tenths, dots 0."""
    rows = [[[0 if c == "." else int(c) / 10 for c in row] for row in lines] for lines in slices]
    return np.array(rows, dtype=np.float32)


JUST_ABOVE = np.nextafter(np.float32(0.5), np.float32(1))


def test_smaller_components_become_0_and_the_rest_is_unchanged():
    probabilities = _probabilities(
        ["99..8", "9...3"],
        ["....4", "6...."],
    )
    # The 6 below touches the 9 above it; the 8 stands alone; 3 and 4 were not predicted.
    expected = _probabilities(
        ["99...", "9...3"],
        ["....4", "6...."],
    )
    np.testing.assert_array_equal(keep_largest_component(probabilities), expected)


def test_voxels_that_touch_only_by_a_corner_are_connected():
    probabilities = _probabilities(
        ["7....", ".....", "....."],
        [".7...", ".....", "....."],
        ["..7.7", ".....", "....."],
    )
    expected = probabilities.copy()
    expected[2, 0, 4] = 0
    np.testing.assert_array_equal(keep_largest_component(probabilities), expected)


def test_holes_of_a_slice_are_filled_just_above_a_half():
    probabilities = _probabilities(["9999.", "9.29.", "9999.", "....."])
    cleaned = keep_largest_component(probabilities)
    expected = probabilities.copy()
    expected[0, 1, 1:3] = JUST_ABOVE
    np.testing.assert_array_equal(cleaned, expected)
    assert (cleaned[0, 1, 1:3] > 0.5).all()


def test_a_component_in_a_hole_is_unchanged():
    probabilities = _probabilities(["99999", "9...9", "9.8.9", "9...9", "99999"])
    cleaned = keep_largest_component(probabilities)
    assert cleaned[0, 2, 2] == np.float32(0.8)
    assert (cleaned > 0.5).all()
    assert np.count_nonzero(cleaned == JUST_ABOVE) == 8


@pytest.mark.parametrize(
    ("rows", "is_filled"),
    [
        (["999", "9.9", "999"], True),
        ([".9.", "9.9", ".9."], True),  # diagonal pixels close it
        (["999", "9.9", "9.9"], False),  # open at the border
        (["9999", "9..9", "99.9"], False),
    ],
)
def test_a_hole_is_4_connected_background_off_the_border(rows, is_filled):
    assert (keep_largest_component(_probabilities(rows))[0, 1, 1] > 0.5) == is_filled


def test_a_hole_is_one_within_its_slice_whatever_its_neighbours_hold():
    ring, disc, open_ring = ["999", "9.9", "999"], ["999", "999", "999"], ["999", "9.9", "9.9"]
    cleaned = keep_largest_component(_probabilities(disc, open_ring, ring))
    assert cleaned[1, 1, 1] == 0
    assert cleaned[2, 1, 1] == JUST_ABOVE


def test_exactly_a_half_is_not_predicted():
    probabilities = _probabilities(["5.66"])
    np.testing.assert_array_equal(keep_largest_component(probabilities), probabilities)
    assert not keep_largest_component(_probabilities(["6.5.66"]))[0, 0, 0]
    assert keep_largest_component(_probabilities(["6.5.66"]))[0, 0, 2] == 0.5


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1), (0, 4, 5)])
def test_an_empty_prediction_stays_as_it_is(shape):
    probabilities = np.full(shape, 0.3, dtype=np.float32)
    cleaned = keep_largest_component(probabilities)
    np.testing.assert_array_equal(cleaned, probabilities)
    assert cleaned.dtype == np.float32


def test_the_first_of_equally_large_components_is_kept():
    probabilities = _probabilities([".77.", "....", "7..."], ["....", "....", "7.77"])
    component = largest_component(probabilities > 0.5)
    assert np.argwhere(component).tolist() == [[0, 0, 1], [0, 0, 2]]
    # The same three pieces, mirrored: now another one is first.
    component = largest_component(probabilities[::-1, ::-1, ::-1] > 0.5)
    assert np.argwhere(component).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_a_later_larger_piece_wins_over_the_first():
    component = largest_component(_probabilities(["77...777"]) > 0.5)
    assert np.argwhere(component)[:, 2].tolist() == [5, 6, 7]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_input_is_unchanged_and_the_type_kept(dtype):
    probabilities = np.random.default_rng(0).random((4, 9, 7)).astype(dtype)
    before = probabilities.copy()
    cleaned = keep_largest_component(probabilities)
    np.testing.assert_array_equal(probabilities, before)
    assert cleaned.dtype == dtype
    assert not np.array_equal(cleaned, before)
    np.testing.assert_array_equal(keep_largest_component(probabilities), cleaned)


def _flood(mask, start, steps):
    """List what is reached from a start within a mask by the steps, in plain loops."""
    reached, todo = {start}, [start]
    while todo:
        voxel = todo.pop()
        for step in steps:
            there = tuple(a + b for a, b in zip(voxel, step, strict=True))
            inside = all(0 <= a < n for a, n in zip(there, mask.shape, strict=True))
            if inside and there not in reached and mask[there]:
                reached.add(there)
                todo.append(there)
    return reached


def _literally(probabilities):
    predicted = probabilities > 0.5
    cube = list(itertools.product((-1, 0, 1), repeat=3))
    pieces = []
    for voxel in map(tuple, np.argwhere(predicted).tolist()):
        if not any(voxel in piece for piece in pieces):
            pieces.append(_flood(predicted, voxel, cube))
    largest = max(pieces, key=len)  # the first of several
    piece = np.zeros(predicted.shape, dtype=bool)
    for voxel in largest:
        piece[voxel] = True
    cross = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    cleaned = probabilities.copy()
    for z in range(len(piece)):
        height, width = piece[z].shape
        for y, x in np.ndindex(height, width):
            if piece[z, y, x]:
                continue
            around = _flood(~piece[z], (y, x), cross)
            leaves = any(a in (0, height - 1) or b in (0, width - 1) for a, b in around)
            if leaves and predicted[z, y, x]:
                cleaned[z, y, x] = 0
            elif not leaves and not predicted[z, y, x]:
                cleaned[z, y, x] = JUST_ABOVE
    return cleaned


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.65])
@pytest.mark.parametrize("seed", range(4))
def test_random_predictions_equal_plain_loops(seed, share):
    generator = np.random.default_rng(seed)
    probabilities = np.where(
        generator.random((4, 9, 8)) < share, generator.uniform(0.51, 1, (4, 9, 8)), generator.uniform(0, 0.5)
    ).astype(np.float32)
    np.testing.assert_array_equal(keep_largest_component(probabilities), _literally(probabilities))
