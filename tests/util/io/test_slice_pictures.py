import base64
import re

import cv2
import numpy as np
import pytest

from tests.oriented_scans import ORIENTATIONS, l_scan
from tests.util.evaluation.example_cases import read_bars
from util.io.grids import orientation
from util.io.slice_pictures import (
    display_slice,
    display_spacing_mm,
    display_transform,
    encode_slice,
    fill_path,
    find_window,
    outline_path,
)


def test_bars_of_a_mask_are_those_written_by_hand():
    mask = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    assert fill_path(mask) == "M1,0h2v1h-2zM4,0h1v1h-1zM0,2h5v1h-5z"


@pytest.mark.parametrize("seed", range(5))
def test_bars_cover_exactly_the_mask(seed):
    mask = np.random.default_rng(seed).random((9, 13)) < 0.4
    np.testing.assert_array_equal(read_bars(fill_path(mask), mask.shape), mask)


def polygon_area(path):
    """Sum the areas of a path's polygons; holes run the other way round."""
    total = 0.0
    for polygon in re.findall(r"M([^Z]+)Z", path):
        x, y = np.array([list(map(float, point.split(","))) for point in polygon.split("L")]).T
        total += 0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
    return abs(total)


def test_the_outline_of_a_rectangle_lies_on_its_edges_with_cut_corners():
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    numbers = np.array(re.findall(r"[\d.]+", outline_path(mask)), float).reshape(-1, 2)
    assert numbers.min(0).tolist() == [3, 2]
    assert numbers.max(0).tolist() == [7, 5]
    assert len(numbers) == 8
    assert polygon_area(outline_path(mask)) == pytest.approx(3 * 4 - 4 / 8)


def test_the_outline_of_a_mask_that_fills_its_slice_is_the_slices_edge():
    numbers = np.array(re.findall(r"[\d.]+", outline_path(np.ones((4, 6), bool))), float).reshape(-1, 2)
    assert numbers.min(0).tolist() == [0, 0]
    assert numbers.max(0).tolist() == [6, 4]


def test_a_hole_has_its_own_outline():
    mask = np.zeros((12, 12), bool)
    mask[1:11, 1:11] = True
    mask[4:8, 4:8] = False
    assert outline_path(mask).count("M") == 2
    assert polygon_area(outline_path(mask)) == pytest.approx(100 - 0.5 - (16 - 0.5) - 1, abs=1)


def test_an_empty_mask_has_neither_outline_nor_bars():
    assert outline_path(np.zeros((5, 5), bool)) == fill_path(np.zeros((5, 5), bool)) == ""


def decode(data_uri):
    kind, data = data_uri.split(",")
    assert kind == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_slice_keeps_its_shape_and_its_greys():
    image = np.tile(np.linspace(-1, 3, 40), (30, 1))
    grey = decode(encode_slice(image))
    assert grey.shape == (30, 40)
    np.testing.assert_allclose(grey.mean(axis=0), np.linspace(0, 255, 40), atol=5)


def test_a_constant_slice_and_a_large_one_can_be_encoded():
    assert decode(encode_slice(np.zeros((6, 7)))).max() == 0
    assert decode(encode_slice(np.zeros((1024, 768)))).shape == (512, 384)


@pytest.mark.parametrize("letters", ["LPS", "RAI", "PLS", "LSP", "RIA", "PSL", "AIR"])
def test_slices_are_shown_in_radiological_convention(letters):
    scan = l_scan(letters)
    transform = display_transform(scan.geometry)
    z = scan.voxels.shape[0] // 2
    shown = display_slice(scan.voxels[z], transform)
    upright = {"S": "LP", "I": "LP", "P": "LI", "A": "LI", "L": "PI", "R": "PI"}[letters[2]]
    expected = l_scan(upright + letters[2])
    np.testing.assert_array_equal(shown, expected.voxels[z])
    assert display_spacing_mm(scan.geometry, transform) == expected.geometry.spacing_mm[1:]


def test_every_orientation_can_be_shown():
    for letters in ORIENTATIONS:
        geometry = l_scan(letters).geometry
        assert orientation(geometry) == letters
        assert display_transform(geometry)[0].tolist() == [0, 1]  # slices keep their order


def test_a_window_surrounds_the_mask_and_stays_within_the_slice():
    mask = np.zeros((100, 80), bool)
    assert find_window(mask) == (0, 0, 80, 100)
    mask[50:60, 30:34] = True
    assert find_window(mask) == (19, 42, 25, 25)
    mask[99, 79] = True
    x, y, width, height = find_window(mask)
    assert x >= 0
    assert y >= 0
    assert x + width == 80
    assert y + height == 100
