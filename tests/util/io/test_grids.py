"""Cropping and reorienting keep the position of every voxel in the patient."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from util.io.grids import (
    crop_grid,
    crop_volume,
    find_reorientation,
    is_orientation,
    orient_like,
    orient_like_majority,
    orient_slices,
    orientation,
    reorient_grid,
    reorient_to_grid,
    reorient_volume,
    same_axes,
)
from util.io.image_io import Geometry, to_sitk

AXIAL = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
SHAPE = (3, 4, 5)


def geometry_of(direction):
    return Geometry(SHAPE, (7.7, 1.25, 1.5), (10.0, -20.0, 30.0), tuple(float(x) for x in direction))


def oblique():
    a, t = math.radians(20), math.radians(-35)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(t), -math.sin(t)], [0, math.sin(t), math.cos(t)]])
    return about_x @ about_z


def directions():
    """All 48 ways to lay a grid's axes along the patient's, each straight and oblique."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            straight = np.eye(3)[:, order] * signs
            yield straight.ravel()
            yield (oblique() @ straight).ravel()


def position_of(volume, geometry, value):
    """Where the voxel of this value lies, computed with SimpleITK."""
    index = np.argwhere(volume == value)[0]
    return to_sitk(volume, geometry).TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])


def test_the_orientation_names_where_the_axes_run():
    assert orientation(geometry_of(AXIAL)) == "LPS"
    assert orientation(geometry_of((1, 0, 0, 0, -1, 0, 0, 0, 1))) == "LAS"
    # Columns run to the left, rows to the feet, slices to the front: a coronal scan.
    assert orientation(geometry_of((1, 0, 0, 0, 0, -1, 0, -1, 0))) == "LIA"
    assert orientation(geometry_of((0, 0, -1, 1, 0, 0, 0, -1, 0))) == "PIR"


@pytest.mark.parametrize("letters", ["LPS", "RAI", "SAL", "IPR"])
def test_letters_that_name_each_axis_once_are_an_orientation(letters):
    assert is_orientation(letters)


@pytest.mark.parametrize("letters", ["", "LP", "LRS", "LPSS", "lps", "XYZ", "LLS"])
def test_other_letters_are_not_an_orientation(letters):
    assert not is_orientation(letters)


def test_a_reorientation_by_hand():
    # Rows run to the front; flipped to the back the last row comes first, 3 rows of 1.25 mm further.
    present = geometry_of((1, 0, 0, 0, -1, 0, 0, 0, 1))
    transform = find_reorientation(present, "LPS")
    assert transform.tolist() == [[0, 1], [1, -1], [2, 1]]
    reoriented = reorient_grid(present, transform)
    assert reoriented.origin_mm == pytest.approx((10.0, -20.0 - 3 * 1.25, 30.0))
    assert reoriented.direction == pytest.approx(AXIAL)
    volume = np.arange(60).reshape(SHAPE)
    assert np.array_equal(reorient_volume(volume, transform), volume[:, ::-1])


@pytest.mark.parametrize("letters", ["LPS", "RAS", "SRP", "AIL"])
def test_a_reoriented_voxel_keeps_its_position(letters):
    volume = np.arange(60, dtype=np.int16).reshape(SHAPE)
    for direction in directions():
        present = geometry_of(direction)
        transform = find_reorientation(present, letters)
        reoriented, grid = reorient_volume(volume, transform), reorient_grid(present, transform)
        assert orientation(grid) == letters
        assert reoriented.flags.c_contiguous
        assert reoriented.shape == grid.shape
        for value in (0, 7, 33, 59):
            expected = position_of(volume, present, value)
            assert position_of(reoriented, grid, value) == pytest.approx(expected, abs=1e-9)


def test_a_volume_is_reoriented_to_a_grid_of_the_same_voxels():
    volume = np.arange(60, dtype=np.int16).reshape(SHAPE)
    for direction in directions():
        grid = geometry_of(direction)
        for letters in ("LPS", "SRP", "AIL"):
            turn = find_reorientation(grid, letters)
            stored = reorient_volume(volume, turn), reorient_grid(grid, turn)
            restored, geometry = reorient_to_grid(*stored, grid)
            assert geometry.same_grid(grid)
            assert np.array_equal(restored, volume)


@pytest.mark.parametrize(
    "change",
    [
        {"origin_mm": (10.0, -20.0, 30.1)},
        {"spacing_mm": (7.7, 1.25, 1.6)},
        {"shape": (3, 4, 6)},
        {"direction": tuple(oblique().ravel().tolist())},
    ],
)
def test_a_volume_that_lies_elsewhere_is_left_as_it_is(change):
    grid = geometry_of(AXIAL)
    for letters in ("LPS", "SRP", "AIL"):
        elsewhere = reorient_grid(grid, find_reorientation(grid, letters))
        volume = np.zeros(elsewhere.shape)
        unchanged, geometry = reorient_to_grid(volume, elsewhere, replace(grid, **change))
        assert unchanged is volume
        assert geometry is elsewhere


@pytest.mark.parametrize("letters", ["LPS", "RAS", "PIR"])
def test_reorientation_equals_simpleitks(letters):
    volume = np.arange(60, dtype=np.int16).reshape(SHAPE)
    for direction in directions():
        present = geometry_of(direction)
        transform = find_reorientation(present, letters)
        reoriented = to_sitk(reorient_volume(volume, transform), reorient_grid(present, transform))
        expected = sitk.DICOMOrient(to_sitk(volume, present), letters)
        assert np.array_equal(sitk.GetArrayFromImage(reoriented), sitk.GetArrayFromImage(expected))
        assert reoriented.GetSpacing() == pytest.approx(expected.GetSpacing())
        assert reoriented.GetOrigin() == pytest.approx(expected.GetOrigin(), abs=1e-9)
        assert reoriented.GetDirection() == pytest.approx(expected.GetDirection(), abs=1e-9)


def test_no_patient_axis_is_named_twice_between_two_axes():
    half = math.sqrt(0.5)
    tilted = geometry_of((half, half, 0, half, -half, 0, 0, 0, 1))
    assert is_orientation(orientation(tilted))
    assert orientation(reorient_grid(tilted, find_reorientation(tilted, "LPS"))) == "LPS"


@pytest.mark.parametrize(
    ("start", "shape", "expected"),
    [
        ((0, 1, 1), (1, 1, 2), [[[5, 6]]]),
        ((0, -1, 0), (1, 2, 2), [[[9, 9], [0, 1]]]),
        ((0, 1, 3), (1, 2, 2), [[[7, 9], [9, 9]]]),
        ((1, 0, 0), (1, 1, 1), [[[9]]]),
        ((-3, 0, 0), (2, 1, 1), [[[9]], [[9]]]),
    ],
)
def test_a_box_is_cropped_and_padded_by_hand(start, shape, expected):
    volume = np.arange(8, dtype=np.int16).reshape(1, 2, 4)
    cropped = crop_volume(volume, start, shape, fill=9)
    assert np.array_equal(cropped, expected)
    assert cropped.dtype == np.int16


def test_a_cropped_voxel_keeps_its_position_on_an_oblique_grid():
    volume, present = np.arange(60, dtype=np.int16).reshape(SHAPE), geometry_of(oblique().ravel())
    start, shape = (1, -2, 2), (2, 7, 2)
    cropped, grid = crop_volume(volume, start, shape, fill=-1), crop_grid(present, start, shape)
    for value in (22, 58):
        assert position_of(cropped, grid, value) == pytest.approx(
            position_of(volume, present, value), abs=1e-9
        )


def rotated_about_z(degrees):
    a = math.radians(degrees)
    return (math.cos(a), -math.sin(a), 0, math.sin(a), math.cos(a), 0, 0, 0, 1)


def test_axes_are_the_same_but_for_obliquity():
    axial, at_44, at_46 = (geometry_of(rotated_about_z(angle)) for angle in (0, 44, 46))
    assert orientation(at_44) != orientation(at_46)
    assert same_axes(at_44, at_46)
    assert same_axes(axial, at_44)
    assert not same_axes(axial, at_46)
    assert not same_axes(axial, geometry_of((-1, 0, 0, 0, 1, 0, 0, 0, 1)))
    assert not same_axes(axial, geometry_of((0, 1, 0, 1, 0, 0, 0, 0, 1)))


def test_grids_are_oriented_like_the_majority():
    stored = {"a": AXIAL, "b": AXIAL, "c": (-1, 0, 0, 0, 1, 0, 0, 0, 1), "d": (1, 0, 0, 0, -1, 0, 0, 0, 1)}
    stored |= {"e": (0, 1, 0, 1, 0, 0, 0, 0, 1), "f": rotated_about_z(40)}
    grids = {name: geometry_of(direction) for name, direction in stored.items()}
    letters = orient_like_majority(grids)
    for name, grid in grids.items():
        reoriented = reorient_grid(grid, find_reorientation(grid, letters[name]))
        assert same_axes(reoriented, grids["a"])
    assert {name: orientation(grids[name]) == letters for name, letters in letters.items()} == {
        **dict.fromkeys("abf", True),
        **dict.fromkeys("cde", False),
    }
    assert orient_like_majority({}) == {}


@pytest.mark.parametrize("direction", list(directions())[::5])
def test_a_grid_is_oriented_like_any_other_by_swaps_and_flips(direction):
    grid, reference = geometry_of(direction), geometry_of((oblique() @ np.eye(3)[:, [2, 0, 1]]).ravel())
    reoriented = reorient_grid(grid, find_reorientation(grid, orient_like(grid, reference)))
    assert same_axes(reoriented, reference)


CORONAL, SAGITTAL = (1, 0, 0, 0, 0, -1, 0, 1, 0), (0, 0, 1, -1, 0, 0, 0, -1, 0)
SHORT_AXIS = (0.71, 0.35, 0.61, 0.61, -0.71, -0.35, 0.35, 0.61, -0.71)


@pytest.mark.parametrize(
    ("direction", "spacing_mm", "letters"),
    [
        (AXIAL, (8, 1, 1), "LPS"),
        (CORONAL, (8, 1, 1), "LSP"),
        (SAGITTAL, (8, 1, 1), "PSL"),
        ((-1, 0, 0, 0, -1, 0, 0, 0, -1), (8, 1, 1), "LPS"),
        (AXIAL, (1, 8, 1), "LSP"),  # slices need not be the first axis of the array
        (AXIAL, (1, 1, 8), "PSL"),
        (AXIAL, (1, 1, 1), "LPS"),  # no axis is wider: axial
        (AXIAL, (2, 2.01, 2.005), "LPS"),
        (AXIAL, (6, 10, 10), "LPS"),  # the only axis that leaves square pixels
        (CORONAL, (6, 10, 10), "LSP"),
        (AXIAL, (3, 5, 8), "PSL"),  # none does: the widest
    ],
)
def test_each_grid_keeps_the_axis_of_its_slices(direction, spacing_mm, letters):
    grid = replace(geometry_of(direction), spacing_mm=spacing_mm)
    assert orient_slices(grid) == letters
    reoriented = reorient_grid(grid, find_reorientation(grid, letters))
    assert orientation(reoriented) == letters


def test_an_oblique_stack_keeps_its_slices():
    columns = np.linalg.qr(np.reshape(SHORT_AXIS, (3, 3)))[0]
    grid = replace(geometry_of(columns.ravel()), spacing_mm=(9, 1.3, 1.3))
    reoriented = reorient_grid(grid, find_reorientation(grid, orient_slices(grid)))
    assert reoriented.spacing_mm == (9, 1.3, 1.3)
