"""Preparation: what is clipped, resampled and cut, and that all of it stays at its place in the patient."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from data.datasets import DATASETS
from data.transforms import Preparation, prepare_volume, resampled_grid, restore_mask
from util.errors import UserError
from util.io.image_io import Geometry

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

PREPARATIONS = {name: dataset.preparation for name, dataset in DATASETS.items() if dataset.preparation}


def turned(angle_deg, tilt_deg):
    """Direction cosines of a grid turned about z, then tilted about x."""
    a, t = math.radians(angle_deg), math.radians(tilt_deg)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(t), -math.sin(t)], [0, math.sin(t), math.cos(t)]])
    return tuple(float(x) for x in (about_x @ about_z).ravel())


OBLIQUE = turned(25, -40)
# Columns run to the right, rows to the head, slices to the back, and all a little oblique.
CORONAL = tuple(
    float(x)
    for x in (np.reshape(turned(8, 5), (3, 3)) @ np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]])).ravel()
)


def geometry_of(shape, spacing_mm, direction=AXIAL):
    return Geometry(shape, spacing_mm, (-120.5, 80.25, 33.0), direction)


def random_scan(geometry, n_labels=3):
    rng = np.random.default_rng(0)
    image = rng.integers(-200, 1200, geometry.shape).astype(np.int16)
    coarse = rng.integers(0, n_labels + 1, [math.ceil(n / 5) for n in geometry.shape])
    label_map = coarse.repeat(5, 0).repeat(5, 1).repeat(5, 2)[tuple(slice(n) for n in geometry.shape)]
    return image, label_map.astype(np.uint8)


def sitk_image(volume, geometry):
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def position_mm(geometry, index):
    """Where a voxel (z, y, x) lies, by NIfTI's and DICOM's definition written out."""
    columns = np.reshape(geometry.direction, (3, 3)).T
    steps = [geometry.spacing_mm[2 - axis] * index[2 - axis] * columns[axis] for axis in range(3)]
    return np.array(geometry.origin_mm) + sum(steps)


def test_each_dataset_is_prepared_as_published():
    expected = {
        "CHAOST2": Preparation(
            orientation="LPS", clip_percentile=99.5, spacing_mm=(7.7, 1.25, 1.25), size_px=(256, 256)
        ),
        "SABS": Preparation(window=(-125, 275), rescale_to=(0, 255), border_px=32, in_plane_factor=1.75),
        "CMR": Preparation(clip_percentile=99.5, spacing_mm=(7.99, 1.25, 1.25), size_px=(256, 256)),
    }
    assert expected == PREPARATIONS


def test_a_window_is_clipped_and_rescaled_by_hand():
    image = np.array([[[-1000, -125, -25, 75, 275, 3000]]], np.int16)
    preparation = Preparation(window=(-125, 275), rescale_to=(0, 255))
    result, label_map, _ = prepare_volume(
        image, None, geometry_of(image.shape, (1.0, 1.0, 1.0)), preparation, labels=()
    )
    np.testing.assert_allclose(result.ravel(), [0, 0, 63.75, 127.5, 255, 255])
    assert result.dtype == np.float32
    assert label_map is None


def test_only_intensities_above_the_percentile_are_clipped():
    image = np.arange(-100, 901, dtype=np.int16).reshape(7, 11, 13)
    geometry = geometry_of(image.shape, (7.7, 1.25, 1.25))
    result, _, _ = prepare_volume(image, None, geometry, Preparation(clip_percentile=99.5), labels=())
    assert np.array_equal(result.ravel(), np.minimum(np.arange(-100, 901), 895).astype(np.float32))


def test_a_ct_of_512_px_gets_257():
    grid = resampled_grid(geometry_of((10, 448, 448), (3.0, 0.8, 0.7)), PREPARATIONS["SABS"])
    assert grid.shape == (10, 257, 257)
    assert grid.spacing_mm == pytest.approx((3.0, 1.4, 1.225))
    image = np.arange(-125, -125 + 512, dtype=np.int16) * np.ones((2, 512, 1), np.int16)
    result, _, geometry = prepare_volume(
        image, None, geometry_of(image.shape, (3.0, 0.8, 0.7)), PREPARATIONS["SABS"], labels=()
    )
    assert result.shape == geometry.shape == (2, 257, 257)
    # Column k lies at 32 + 1.75 k; the last one and the last row lie outside and get the least value.
    columns = 32 + 1.75 * np.arange(256)
    expected = np.append(np.minimum(columns, 400) * 255 / 400, 32 * 255 / 400)
    np.testing.assert_allclose(result[0, 5], expected, rtol=1e-5)
    np.testing.assert_allclose(result[0, 256], np.full(257, 32 * 255 / 400), rtol=1e-5)
    assert geometry.origin_mm == pytest.approx((-120.5 + 32 * 0.7, 80.25 + 32 * 0.8, 33.0))


@pytest.mark.parametrize(
    ("n_slices", "step_mm", "expected"),
    [
        (36, 7.7, 36),
        (36, 7.7005, 36),  # within 0.1 %: left as it is
        (30, 3.85, 15),  # samples 0, 2, ..., 28; 30 is outside
        (31, 3.85, 16),  # sample 30 is the last slice
        (4, 15.4, 7),  # samples 0, 0.5, ..., 3; 3.5 is the outer face of the last slice
        (1, 5.0, 1),
        (10, 9.625, 12),  # samples 0, 0.8, ..., 8.8; 9.6 is outside
    ],
)
def test_slices_are_kept_only_where_the_volume_reaches(n_slices, step_mm, expected):
    grid = resampled_grid(geometry_of((n_slices, 20, 20), (step_mm, 1.25, 1.25)), PREPARATIONS["CHAOST2"])
    assert grid.shape == (expected, 20, 20)
    assert grid.spacing_mm[0] == (step_mm if expected == n_slices and n_slices > 1 else 7.7)


def test_no_slice_is_made_up_at_the_end():
    image = np.full((10, 20, 20), 500, np.int16)
    image[:, 0, 0] = 1
    for step_mm in np.linspace(2, 14, 25):
        geometry = geometry_of(image.shape, (float(step_mm), 1.25, 1.25), OBLIQUE)
        result, _, _ = prepare_volume(
            image, None, geometry, Preparation(spacing_mm=(7.7, 1.25, 1.25)), labels=()
        )
        assert (result[:, 5, 5] == 500).all()


def test_surplus_is_cut_and_lack_is_filled_evenly_around_the_middle():
    image = np.arange(5 * 4, dtype=np.int16).reshape(1, 5, 4) + 3
    label_map = np.ones((1, 5, 4), np.uint8)
    geometry = geometry_of(image.shape, (7.7, 1.25, 1.5))
    result, labels, grid = prepare_volume(
        image, label_map, geometry, Preparation(size_px=(2, 7)), labels=(1,)
    )
    row = [3, 4, 5, 6]
    expected = [[[3, *(x + 4 for x in row), 3, 3], [3, *(x + 8 for x in row), 3, 3]]]
    assert np.array_equal(result, expected)
    assert np.array_equal(labels, [[[0, 1, 1, 1, 1, 0, 0]] * 2])
    assert grid.origin_mm == pytest.approx((-120.5 - 1.5, 80.25 + 1.25, 33.0))


@pytest.mark.parametrize("direction", [AXIAL, OBLIQUE, CORONAL])
@pytest.mark.parametrize("spacing_mm", [(5.5, 1.7, 1.9), (9.0, 1.25, 0.9)])
def test_voxels_and_labels_are_what_simpleitk_gives_on_the_prepared_grid(direction, spacing_mm):
    geometry = geometry_of((9, 40, 36), spacing_mm, direction)
    image, label_map = random_scan(geometry)
    preparation = Preparation(spacing_mm=(7.7, 1.25, 1.25), size_px=(50, 44), clip_percentile=99.5)
    result, labels, grid = prepare_volume(image, label_map, geometry, preparation, labels=(1, 2, 3))
    clipped = np.minimum(image, np.percentile(image, 99.5)).astype(np.float32)
    reference = sitk_image(np.zeros(grid.shape, np.float32), grid)

    def resample(volume, fill):
        moved = sitk.Resample(
            sitk_image(volume, geometry), reference, sitk.Transform(), sitk.sitkLinear, fill
        )
        return sitk.GetArrayFromImage(moved)

    np.testing.assert_allclose(result, resample(clipped, -200.0), atol=2e-3)
    for label in (1, 2, 3):
        share = resample((label_map == label).astype(np.float32), 0.0)
        assert (labels[share > 0.5 + 1e-5] == label).all()
        assert (share[labels == label] >= 0.5 - 1e-5).all()


@pytest.mark.parametrize("direction", [AXIAL, OBLIQUE, CORONAL])
@pytest.mark.parametrize(
    "preparation",
    [
        Preparation(spacing_mm=(7.7, 1.25, 1.25), size_px=(64, 64)),
        Preparation(spacing_mm=(7.7, 1.25, 1.25), size_px=(20, 90)),
        Preparation(border_px=3, in_plane_factor=1.75),
        Preparation(orientation="LPS", spacing_mm=(5.0, 2.0, 1.5)),
        Preparation(orientation="RAI", border_px=2, size_px=(33, 44)),
    ],
)
def test_marks_stay_at_their_places_in_the_patient(direction, preparation):
    geometry = geometry_of((24, 40, 36), (5.5, 1.7, 1.9), direction)
    for centre in ((12, 20, 18), (10, 17, 21)):
        box = tuple(slice(i - 2, i + 3) for i in centre)
        label_map = np.zeros(geometry.shape, np.uint8)
        label_map[box] = 1
        image = label_map * 100.0
        result, labels, grid = prepare_volume(image, label_map, geometry, preparation, labels=(1,))
        inside = np.argwhere(labels)
        assert len(inside) > 10
        # The share of a symmetric box is symmetric, so its centre of mass is the box's but for sampling.
        mass = (np.argwhere(result > 0).T * result[result > 0]).sum(1) / result.sum()
        np.testing.assert_allclose(position_mm(grid, mass), position_mm(geometry, centre), atol=1.5)
        distance = np.linalg.norm(position_mm(grid, inside.mean(0)) - position_mm(geometry, centre))
        assert distance < 0.5 * max(grid.spacing_mm)


@pytest.mark.parametrize("direction", [AXIAL, OBLIQUE, CORONAL])
@pytest.mark.parametrize("orientation", [None, "LPS", "ASR"])
def test_the_prepared_volume_opens_in_place_over_the_original(direction, orientation):
    # A picture that is linear in the patient's places survives linear resampling; voxels tell where they lie.
    geometry = geometry_of((24, 40, 36), (5.5, 1.7, 1.9), direction)
    positions = geometry.position_mm(np.moveaxis(np.indices(geometry.shape), 0, -1))
    image = (positions @ (1.0, 2.5, -0.7)).astype(np.float32)
    preparation = Preparation(
        orientation=orientation, border_px=2, spacing_mm=(7.7, 1.25, 1.25), size_px=(60, 30)
    )
    result, _, grid = prepare_volume(image, None, geometry, preparation, labels=())
    resampled = sitk.Resample(
        sitk_image(result, grid),
        sitk_image(image, geometry),
        sitk.Transform(),
        sitk.sitkLinear,
        float("nan"),
    )
    resampled = sitk.GetArrayFromImage(resampled)
    # Off the original's border, whose neighbours were cut off or repeated, and within what was kept.
    index, last = grid.index_at(positions), np.array(grid.shape) - 1
    inside = ((index >= 0) & (index <= last)).all(-1)
    inside &= np.pad(np.ones([n - 10 for n in geometry.shape], bool), 5)
    assert inside.mean() > 0.1
    np.testing.assert_allclose(resampled[inside], image[inside], atol=1e-3)


def ball_on(geometry, centre_mm, radius_mm=20.0):
    positions = geometry.position_mm(np.moveaxis(np.indices(geometry.shape), 0, -1))
    return np.linalg.norm(positions - centre_mm, axis=-1) <= radius_mm


def dice(a, b):
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("direction", [AXIAL, OBLIQUE, CORONAL])
@pytest.mark.parametrize(
    ("name", "spacing_mm"),
    [
        ("CHAOST2", (9.0, 1.62, 1.62)),
        ("CHAOST2", (7.7, 1.89, 1.89)),
        ("CHAOST2", (5.0, 1.4, 1.4)),
        ("CHAOST2", (3.0, 1.2, 1.0)),
        ("CHAOST2", (1.0, 1.0, 1.0)),
        ("CMR", (10.0, 1.25, 1.25)),
        ("SABS", (3.0, 0.8, 0.7)),
    ],
)
def test_a_ball_of_20_mm_comes_back_from_preparation(name, spacing_mm, direction):
    margin_mm = 64 if name == "SABS" else 50
    shape = tuple(math.ceil(2 * margin_mm / step) for step in spacing_mm)
    geometry = geometry_of(shape, spacing_mm, direction)
    size_px = None if name == "SABS" else (70, 90)
    preparation = replace(PREPARATIONS[name], orientation=None, size_px=size_px)
    for shift in ((0.0, 0.0, 0.0), (0.3, 0.4, -0.2)):
        ball = ball_on(geometry, geometry.position_mm(np.array(shape) / 2 + shift))
        image = ball * 100.0
        _, label_map, grid = prepare_volume(image, ball.astype(np.uint8), geometry, preparation, labels=(1,))
        restored = restore_mask(label_map == 1, grid, geometry)
        assert restored.shape == shape
        assert dice(restored, ball) >= 0.95


def test_a_mask_comes_back_from_another_orientation():
    geometry = geometry_of((20, 60, 70), (5.0, 1.5, 1.6), CORONAL)
    ball = ball_on(geometry, geometry.position_mm((10, 30, 35)))
    _, label_map, grid = prepare_volume(
        ball * 1.0, ball.astype(np.uint8), geometry, Preparation(orientation="LPS"), labels=(1,)
    )
    assert grid.shape != geometry.shape
    assert np.array_equal(restore_mask(label_map, grid, geometry), ball)


def test_a_mask_is_outside_where_the_scan_was_cut_off():
    geometry = geometry_of((3, 40, 40), (7.7, 1.25, 1.25), OBLIQUE)
    _, _, grid = prepare_volume(
        np.zeros(geometry.shape), None, geometry, Preparation(size_px=(30, 50)), labels=()
    )
    restored = restore_mask(np.ones(grid.shape, bool), grid, geometry)
    expected = np.zeros(geometry.shape, bool)
    expected[:, 5:35] = True
    assert np.array_equal(restored, expected)


def test_arguments_are_unchanged_and_results_are_the_same_again():
    geometry = geometry_of((6, 20, 24), (5.5, 1.7, 1.9), OBLIQUE)
    image, label_map = random_scan(geometry)
    copies = image.copy(), label_map.copy()
    for preparation in (*(replace(p, border_px=0) for p in PREPARATIONS.values()), Preparation()):
        first = prepare_volume(image, label_map, geometry, preparation, labels=(1, 2, 3))
        second = prepare_volume(image, label_map, geometry, preparation, labels=(3, 2, 1))
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])
        first[0][:], first[1][:] = 0, 0
        assert np.array_equal(image, copies[0])
        assert np.array_equal(label_map, copies[1])


def test_a_slice_smaller_than_its_borders_is_refused():
    geometry = geometry_of((3, 64, 100), (3.0, 0.8, 0.8))
    with pytest.raises(
        UserError, match=r"slices of 64 x 100 px must be larger than twice the border of 32 px"
    ):
        prepare_volume(np.zeros(geometry.shape), None, geometry, PREPARATIONS["SABS"], labels=())


def test_arrays_that_do_not_belong_together_are_refused():
    geometry = geometry_of((3, 8, 8), (3.0, 0.8, 0.8))
    image, label_map = np.zeros((3, 8, 8)), np.full((3, 8, 8), 7, np.uint8)
    with pytest.raises(
        ValueError, match=r"must have the shape \(3, 8, 8\), got \[\(3, 8, 8\), \(3, 8, 9\)\]"
    ):
        prepare_volume(image, np.zeros((3, 8, 9), np.uint8), geometry, Preparation(), labels=(1,))
    with pytest.raises(ValueError, match=r"label map holds \[7\], which must be among the labels \[1, 2\]"):
        prepare_volume(image, label_map, geometry, Preparation(), labels=(2, 1))
    with pytest.raises(ValueError, match=r"mask \(3, 8, 9\) must have the prepared scan's shape"):
        restore_mask(np.zeros((3, 8, 9), bool), geometry, geometry)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"orientation": "LPX"}, "orientations must name each patient axis once"),
        ({"window": (5, 5)}, r"window must be \(low, high\)"),
        ({"clip_percentile": 0}, "clip_percentile must lie in 0..100"),
        ({"rescale_to": (0, 255)}, "rescale_to needs a window"),
        ({"border_px": -1}, "border_px must not be negative"),
        ({"in_plane_factor": 0.0}, "in_plane_factor must be positive"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm must be three positive numbers"),
        ({"spacing_mm": (1.0, 1.0)}, "spacing_mm must be three positive numbers"),
        ({"spacing_mm": (1.0, 1.0, 1.0), "in_plane_factor": 2.0}, "exclude each other"),
        ({"size_px": (0, 256)}, "size_px must be two positive numbers"),
    ],
)
def test_preparations_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Preparation(**wrong)
