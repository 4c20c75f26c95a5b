"""Resampling equals SimpleITK's; masks are restored on their original grid."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from util.errors import UserError
from util.io.image_io import Geometry
from util.io.resampling import resample_label_map, resample_linear, restore_on_grid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def line(length, spacing_mm=1.0, origin_mm=0.0):
    """A grid of one row: its voxels lie along x."""
    return Geometry((1, 1, length), (1.0, 1.0, spacing_mm), (origin_mm, 0.0, 0.0), AXIAL)


def column(length, spacing_mm=1.0, origin_mm=0.0):
    """A grid of 1 x 1 slices along z."""
    return Geometry((length, 1, 1), (spacing_mm, 1.0, 1.0), (0.0, 0.0, origin_mm), AXIAL)


def oblique(shape, spacing_mm):
    a, t = math.radians(20), math.radians(-35)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(t), -math.sin(t)], [0, math.sin(t), math.cos(t)]])
    return Geometry(shape, spacing_mm, (-30.0, 44.5, 120.0), tuple((about_x @ about_z).ravel()))


def sitk_image(volume, geometry):
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def test_linear_samples_by_hand():
    # At 0, 0.75, 1.5 they lie within; at 2.25 within the last voxel, beyond its centre; at 3 outside.
    volume = np.array([[[10, 20, 40]]], np.int16)
    samples = resample_linear(volume, line(3), line(5, 0.75), fill=-7)
    assert samples.ravel().tolist() == [10, 17.5, 30, 40, -7]
    assert samples.dtype == np.float32


def test_linear_samples_are_simpleitks_on_an_oblique_grid():
    rng = np.random.default_rng(0)
    source = oblique((7, 20, 18), (5.0, 1.7, 1.9))
    target = replace(source, shape=(5, 28, 28), spacing_mm=(7.7, 1.25, 1.25))
    volume = rng.normal(size=source.shape).astype(np.float32)
    expected = sitk.Resample(
        sitk_image(volume, source),
        target.shape[::-1],
        sitk.Transform(),
        sitk.sitkLinear,
        target.origin_mm,
        target.spacing_mm[::-1],
        target.direction,
        -3.0,
    )
    assert np.array_equal(resample_linear(volume, source, target, fill=-3), sitk.GetArrayFromImage(expected))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # Samples at 0, 0.5, ..., 3. Half and half goes to the smaller id, whichever comes first.
        ([1, 1, 2, 0], [1, 1, 1, 1, 2, 2, 0]),
        ([2, 2, 1, 0], [2, 2, 2, 1, 1, 1, 0]),
        ([7, 0, 7, 0], [7, 7, 0, 7, 7, 7, 0]),
        # 3 is not requested; a rest of it lies where it was.
        ([3, 3, 1, 0], [0, 0, 0, 1, 1, 1, 0]),
    ],
)
def test_labels_are_rounded_one_at_a_time_by_hand(labels, expected):
    label_map = np.array(labels, np.uint8).reshape(1, 1, 4)
    result = resample_label_map(label_map, line(4), line(7, 0.5), labels=(7, 1, 2))
    assert result.dtype == np.uint8
    assert result.ravel().tolist() == expected


def test_labels_are_simpleitks_indicators_at_one_half_and_more():
    rng = np.random.default_rng(1)
    source = oblique((7, 20, 18), (5.0, 1.7, 1.9))
    target = replace(source, shape=(5, 28, 28), spacing_mm=(7.7, 1.25, 1.25))
    label_map = np.repeat(np.repeat(rng.integers(0, 4, (7, 5, 6)), 4, 1), 3, 2).astype(np.uint8)
    result = resample_label_map(label_map, source, target, labels=(1, 2, 3))
    reference = sitk_image(np.zeros(target.shape, np.uint8), target)
    for label in (1, 2, 3):
        indicator = sitk_image((label_map == label).astype(np.float32), source)
        share = sitk.GetArrayFromImage(sitk.Resample(indicator, reference, sitk.Transform(), sitk.sitkLinear))
        assert np.array_equal(result[share > 0.5 + 1e-6] == label, np.ones((share > 0.5 + 1e-6).sum(), bool))
        assert not (result[share < 0.5 - 1e-6] == label).any()
    assert set(np.unique(result)) == {0, 1, 2, 3}


def test_arguments_are_unchanged():
    label_map = np.array([1, 0, 2], np.uint8).reshape(1, 1, 3)
    copy = label_map.copy()
    resample_label_map(label_map, line(3), line(6, 0.5), labels=(1, 2))
    restore_on_grid(label_map, line(3), line(6, 0.5))
    assert np.array_equal(label_map, copy)


def test_a_mask_on_its_own_grid_is_unchanged():
    mask = np.random.default_rng(2).random((6, 9, 8)) > 0.6
    geometry = oblique(mask.shape, (5.0, 1.7, 1.9))
    assert np.array_equal(restore_on_grid(mask, geometry, geometry), mask)
    assert np.array_equal(restore_on_grid(mask.astype(np.uint8) * 3, geometry, geometry), mask)
    assert np.array_equal(restore_on_grid(mask.astype(np.float32), geometry, geometry), mask)


@pytest.mark.parametrize("mask", [np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)])
def test_an_empty_and_a_full_mask_stay_so(mask):
    geometry = oblique(mask.shape, (5.0, 1.7, 1.9))
    finer = replace(geometry, shape=(8, 9, 10), spacing_mm=(2.5, 1.0, 1.2))
    assert np.array_equal(restore_on_grid(mask, geometry, finer), np.full((8, 9, 10), mask.all()))


def test_the_outline_between_two_slices_lies_half_way_by_hand():
    # Slices 0, 3, 6, 9 mm; the mask ends between 3 and 6: of the slices between, the nearer one is inside.
    mask = np.array([1, 1, 0, 0], bool).reshape(4, 1, 1)
    restored = restore_on_grid(mask, column(4, 3.0), column(12, 1.0))
    assert restored.ravel().tolist() == [True] * 5 + [False] * 7


def test_the_original_s_last_slices_take_the_nearest_sample():
    # Samples at 0 and 2 mm: the last slice, at 3 mm, lies one step behind them.
    mask = np.array([0, 1], bool).reshape(2, 1, 1)
    assert restore_on_grid(mask, column(2, 2.0), column(4, 1.0)).ravel().tolist() == [False, True, True, True]


def test_cropped_regions_are_outside():
    mask = np.ones((1, 1, 3), bool)
    restored = restore_on_grid(mask, line(3, origin_mm=4.0), line(10))
    assert np.flatnonzero(restored).tolist() == [4, 5, 6]


def test_probabilities_are_interpolated_as_they_are_by_hand():
    # Between 0.9 at 0 mm and 0.1 at 4 mm one half is reached at 2 mm; between 0.6 and 0.1 at 0.8 mm.
    grid, finer = line(2, 4.0), line(5)
    halves = [
        restore_on_grid(np.array(values, np.float32).reshape(1, 1, 2), grid, finer).ravel().tolist()
        for values in ([0.95, 0.1], [0.6, 0.1])
    ]
    assert halves == [[True, True, True, False, False], [True, False, False, False, False]]


def test_axes_in_another_order_and_direction_are_followed():
    mask = np.zeros((2, 3, 4), bool)
    mask[1, 0, 2] = True
    # The original's x runs along the mask's z, its y against the mask's x, its z along the mask's y.
    geometry = Geometry((2, 3, 4), (3.0, 2.0, 1.0), (0.0, 0.0, 0.0), AXIAL)
    axes = np.array([[0, -1, 0], [0, 0, 1], [1, 0, 0]], float)
    original = Geometry((3, 4, 2), (2.0, 1.0, 3.0), (3.0, 0.0, 0.0), tuple(axes.ravel()))
    restored = restore_on_grid(mask, geometry, original)
    index = np.argwhere(restored)
    assert index.tolist() == [[0, 1, 1]]
    assert original.position_mm(index[0]).tolist() == geometry.position_mm((1, 0, 2)).tolist() == [2, 0, 3]


def test_grids_rotated_relative_to_each_other_are_refused():
    mask = np.ones((3, 4, 5), bool)
    with pytest.raises(
        UserError, match="rotated relative to the original grid; give the geometry of the scan"
    ):
        restore_on_grid(
            mask, oblique(mask.shape, (1.0, 1.0, 1.0)), Geometry((3, 4, 5), (1.0, 1.0, 1.0), (0, 0, 0), AXIAL)
        )
