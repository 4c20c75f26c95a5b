"""Loading: z-scoring, resizing, and the checks that scans, labels and supervoxels belong together."""

from dataclasses import replace

import numpy as np
import pytest

from data.datasets import find_spec
from data.layout import DatasetLayout
from data.supervoxels.supervoxel_records import supervoxel_record_path
from dataloaders.prepared_scans import load_scan, load_scans, resize_in_plane, resize_scan
from util.errors import UserError
from util.io.image_io import Geometry, write_volume

SHAPE = (3, 8, 6)
GEOMETRY = Geometry(SHAPE, (7.7, 1.25, 1.5), (-10.0, 20.0, 5.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


@pytest.fixture
def layout(tmp_path):
    """Two scans with labels and supervoxels on disk."""
    dataset = DatasetLayout(find_spec("CHAOST2"), tmp_path, tmp_path / "elsewhere", 5000)
    for scan_id in (3, 7):
        generator = np.random.default_rng(scan_id)
        image = generator.integers(0, 900, SHAPE).astype(np.int16)
        write_volume(dataset.image_path(scan_id), image, GEOMETRY)
        write_volume(dataset.label_path(scan_id), generator.integers(0, 5, SHAPE).astype(np.uint8), GEOMETRY)
        supervoxels = generator.integers(0, 9, SHAPE).astype(np.int32)
        write_volume(dataset.supervoxel_path(scan_id), supervoxels, GEOMETRY)
    return dataset


def load(layout, scan_id=7, **options):
    return load_scan(layout, scan_id, **{"with_labels": True, "with_supervoxels": True, **options})


def test_the_image_is_z_scored_over_the_whole_volume(layout):
    image = np.zeros(SHAPE, np.int16)
    image[0] = 4  # a third at 4, two thirds at 0: mean 4/3, standard deviation sqrt(32/9)
    write_volume(layout.image_path(7), image, GEOMETRY)
    scan = load(layout)
    np.testing.assert_allclose(scan.image[0], (4 - 4 / 3) / np.sqrt(32 / 9), rtol=1e-6)
    np.testing.assert_allclose(scan.image[1:], (0 - 4 / 3) / np.sqrt(32 / 9), rtol=1e-6)


def test_a_scan_has_the_promised_types_and_the_files_contents(layout):
    scan = load(layout)
    assert (scan.image.dtype, scan.label_map.dtype, scan.supervoxels.dtype) == ("float32", "int16", "int32")
    generator = np.random.default_rng(7)
    raw = generator.integers(0, 900, SHAPE)
    np.testing.assert_allclose(scan.image, (raw - raw.mean()) / raw.std(), atol=1e-6)
    np.testing.assert_array_equal(scan.label_map, generator.integers(0, 5, SHAPE))
    np.testing.assert_array_equal(scan.supervoxels, generator.integers(0, 9, SHAPE))
    assert scan.scan_id == 7
    assert scan.geometry.same_grid(GEOMETRY)


def test_only_requested_files_are_read(layout):
    layout.label_path(7).unlink()
    layout.supervoxel_path(7).unlink()
    scan = load(layout, with_labels=False, with_supervoxels=False)
    assert scan.label_map is None
    assert scan.supervoxels is None


@pytest.fixture
def finer_layouts(layout):
    """Two further sets of scan 7's supervoxels: all 11, and all 12 or more."""
    layouts = [replace(layout, supervoxel_min_vox=min_vox) for min_vox in (1000, 1)]
    write_volume(layouts[0].supervoxel_path(7), np.full(SHAPE, 11, np.int32), GEOMETRY)
    write_volume(layouts[1].supervoxel_path(7), np.arange(144, dtype=np.int32).reshape(SHAPE) + 12, GEOMETRY)
    return layouts


def test_further_sets_of_supervoxels_come_in_the_requested_order(layout, finer_layouts):
    first = load(layout)
    assert first.more_supervoxels == ()
    for scan in (
        load(layout, more_supervoxels=finer_layouts),
        *load_scans(layout, [7], with_supervoxels=True, more_supervoxels=finer_layouts, progress=False),
    ):
        np.testing.assert_array_equal(scan.supervoxels, first.supervoxels)
        assert [volume.dtype for volume in scan.more_supervoxels] == ["int32", "int32"]
        assert (scan.more_supervoxels[0] == 11).all()
        np.testing.assert_array_equal(scan.more_supervoxels[1].ravel(), np.arange(144) + 12)


def test_further_sets_are_resized_as_the_first_one_is(layout, finer_layouts):
    scan = load(layout, more_supervoxels=finer_layouts, image_size_px=(4, 3))
    expected = resize_in_plane(np.arange(144).reshape(SHAPE) + 12, (4, 3))
    np.testing.assert_array_equal(scan.more_supervoxels[1], expected)


def test_further_sets_are_read_only_with_supervoxels(layout, finer_layouts):
    finer_layouts[0].supervoxel_path(7).unlink()
    assert load(layout, with_supervoxels=False, more_supervoxels=finer_layouts).more_supervoxels == ()


def test_scans_come_in_the_requested_order(layout):
    scans = load_scans(layout, [7, 3], with_labels=False, with_supervoxels=True, progress=False)
    assert [scan.scan_id for scan in scans] == [7, 3]


def test_a_resized_scan_keeps_the_files_geometry_and_is_z_scored_as_returned(layout):
    scan = load(layout, image_size_px=(4, 3))
    assert scan.image.shape == scan.label_map.shape == scan.supervoxels.shape == (3, 4, 3)
    assert (scan.label_map.dtype, scan.supervoxels.dtype) == ("int16", "int32")
    assert abs(scan.image.mean()) < 1e-6
    assert abs(scan.image.std() - 1) < 1e-6
    assert scan.geometry.shape == SHAPE


def test_labels_with_whole_floating_point_values_are_accepted(layout):
    expected = load(layout).label_map
    write_volume(layout.label_path(7), expected.astype(np.float32), GEOMETRY)
    np.testing.assert_array_equal(load(layout).label_map, expected)


def test_supervoxels_without_spacing_and_origin_are_accepted(layout):
    bare = Geometry(SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), GEOMETRY.direction)
    write_volume(layout.supervoxel_path(7), np.ones(SHAPE, np.int32), bare)
    assert (load(layout).supervoxels == 1).all()


def _boxes(n_voxels):
    """Supervoxels, one of them whole and of `n_voxels` voxels, the others cut at the body's edge."""
    supervoxels = np.ones((8, 12, 12), np.int32)
    supervoxels[2:6, 3:6, 4:8] = 2  # touches neither 0 nor a face
    supervoxels[3, 4, 5 : 5 + 48 - n_voxels] = 1
    supervoxels[:, 8:, 8:] = 3
    supervoxels[:, 9:] = supervoxels[:, :, 9:] = 0  # leaves 4 of the third
    return supervoxels


@pytest.mark.parametrize("factor", [1, 1_000_000])
def test_supervoxels_of_a_smaller_minimum_size_are_refused(tmp_path, factor):
    layout = DatasetLayout(find_spec("CHAOST2"), tmp_path, tmp_path, 48)
    geometry = replace(GEOMETRY, shape=(8, 12, 12))
    write_volume(layout.image_path(7), np.arange(1152, dtype=np.int16).reshape(8, 12, 12), geometry)
    write_volume(layout.supervoxel_path(7), factor * _boxes(48), geometry)
    assert load(layout, with_labels=False).supervoxels.max() == 3 * factor
    write_volume(layout.supervoxel_path(7), factor * _boxes(46), geometry)
    with pytest.raises(
        UserError, match=r"_7\.nii\.gz: .* at least 48 voxels, got one of 46, .* --min-size 48"
    ):
        load(layout, with_labels=False)
    supervoxel_record_path(layout.supervoxel_path(7)).touch()  # its record marks the file as ours
    assert load(layout, with_labels=False).supervoxels.max() == 3 * factor


def test_supervoxels_that_lost_slices_after_they_were_made_are_taken(tmp_path):
    layout = DatasetLayout(find_spec("CHAOST2"), tmp_path, tmp_path, 48)
    geometry = replace(GEOMETRY, shape=(5, 12, 12))
    write_volume(layout.image_path(7), np.arange(720, dtype=np.int16).reshape(5, 12, 12), geometry)
    write_volume(layout.supervoxel_path(7), _boxes(48)[3:], geometry)
    assert (load(layout, with_labels=False).supervoxels == 2).sum() == 36


def test_a_file_without_supervoxels_is_refused(layout):
    write_volume(layout.supervoxel_path(7), np.zeros(SHAPE, np.int32), GEOMETRY)
    with pytest.raises(UserError, match=r"_7\.nii\.gz: must hold supervoxels, got 0 everywhere; delete it"):
        load(layout)


def test_a_missing_label_file_is_named(layout):
    layout.label_path(7).unlink()
    with pytest.raises(UserError, match=r"label_7\.nii\.gz: no such label file; evaluation, setting 2 and"):
        load(layout)


def test_shrinking_averages_images_and_picks_labels():
    volume = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    np.testing.assert_allclose(resize_in_plane(volume, (2, 2))[0], [[2.5, 4.5], [10.5, 12.5]])
    labels = volume.astype(np.int16)
    np.testing.assert_array_equal(resize_in_plane(labels, (2, 2))[0], [[5, 7], [13, 15]])


def test_shrinking_counts_every_pixel_not_only_those_near_the_new_centres():
    volume = np.zeros((1, 4, 4), np.float32)
    volume[0, 0, 0] = 16
    np.testing.assert_allclose(resize_in_plane(volume, (1, 1)), [[[1.0]]])


def test_a_scan_is_resized_with_all_that_it_holds(layout):
    whole = load_scan(layout, 7, with_labels=True)
    further = np.arange(whole.image.size, dtype=np.int32).reshape(whole.image.shape)
    small = resize_scan(replace(whole, more_supervoxels=(further,)), (2, 3))
    assert small.image.shape == small.label_map.shape == (len(whole.image), 2, 3)
    assert small.supervoxels is None
    np.testing.assert_array_equal(small.label_map, resize_in_plane(whole.label_map, (2, 3)))
    np.testing.assert_array_equal(small.more_supervoxels, [resize_in_plane(further, (2, 3))])
    np.testing.assert_allclose([small.image.mean(), small.image.std()], [0, 1], atol=1e-5)
    assert small.geometry == whole.geometry


def test_growing_interpolates_images_and_repeats_labels():
    volume = np.array([[[0.0, 4.0]]], dtype=np.float32)
    np.testing.assert_allclose(resize_in_plane(volume, (1, 4))[0], [[0, 1, 3, 4]])
    np.testing.assert_array_equal(resize_in_plane(volume.astype(np.int32), (1, 4))[0], [[0, 0, 4, 4]])


def test_image_and_labels_stay_registered_at_odd_sizes():
    rows, columns = np.indices((257, 257))
    disc = ((rows - 90) ** 2 + (columns - 150) ** 2 < 60**2)[None]
    image = resize_in_plane(disc.astype(np.float32), (128, 100))
    labels = resize_in_plane(disc.astype(np.int16), (128, 100))
    for axis in (1, 2):
        centres = [
            np.average(np.indices(volume.shape)[axis], weights=volume.astype(float))
            for volume in (image, labels)
        ]
        assert abs(centres[0] - centres[1]) < 0.15  # rounding down from corners is off by 0.3


def test_no_size_or_the_same_size_changes_nothing():
    volume = np.zeros((2, 5, 7), np.float32)
    assert resize_in_plane(volume, None) is volume
    assert resize_in_plane(volume, (5, 7)) is volume


def _overwrite(layout, kind, voxels, geometry):
    """Write kind's file of scan 7 again with changed voxels."""
    write_volume(getattr(layout, f"{kind}_path")(7), voxels, geometry)


SHORT = replace(GEOMETRY, shape=(2, 8, 6))
MOVED = replace(GEOMETRY, origin_mm=(-10.0, 20.0, 25.0))
# Finite in the file, infinite as float32 (the NIfTI reader itself turns NaN into 0).
HUGE = np.zeros(SHAPE, np.float64)
HUGE[0, 0, :2] = (1e300, -1e300)


@pytest.mark.parametrize(
    ("kind", "voxels", "geometry", "message"),
    [
        ("image", HUGE, GEOMETRY, r"image_7.nii.gz: image must be finite, got 2 NaN"),
        ("image", np.full(SHAPE, 7.3, np.float32), GEOMETRY, r"image_7.nii.gz: image must vary, got 7.3"),
        (
            "label",
            np.zeros((2, 8, 6), np.uint8),
            SHORT,
            r"label_7.nii.gz: label grid \(2, 8, 6\) differs from image grid \(3, 8, 6\).*scan 7",
        ),
        (
            "label",
            np.zeros(SHAPE, np.uint8),
            MOVED,
            r"origin \[-10.0, 20.0, 25.0\].* differs from image grid .*origin \[-10.0, 20.0, 5.0\]",
        ),
        (
            "label",
            np.full(SHAPE, 1.5, np.float32),
            GEOMETRY,
            r"label_7.nii.gz: label values must be .*got 1.5",
        ),
        ("label", np.full(SHAPE, -1, np.int16), GEOMETRY, "label values must be .*, got -1;"),
        ("label", np.full(SHAPE, 70000, np.int32), GEOMETRY, "label values must be .*, got 70000;"),
        (
            "supervoxel",
            np.zeros((2, 8, 6), np.int32),
            SHORT,
            r"superpix-MIDDLE_7.nii.gz: supervoxel grid \(2, 8, 6\) differs from image grid \(3, 8, 6\)",
        ),
    ],
)
def test_a_faulty_file_is_named_in_one_line(layout, kind, voxels, geometry, message):
    _overwrite(layout, kind, voxels, geometry)
    with pytest.raises(UserError, match=message) as caught:
        load(layout)
    assert "\n" not in str(caught.value)


def test_missing_supervoxels_name_the_command_that_makes_them(layout):
    layout.supervoxel_path(7).unlink()
    with pytest.raises(UserError, match=r"MIDDLE_7.*python -m data.supervoxels --dataset CHAOST2"):
        load(layout)


def test_a_further_set_that_is_missing_names_the_command_with_its_size(layout, finer_layouts):
    finer_layouts[0].supervoxel_path(7).unlink()
    message = r"supervoxels_1000/superpix-MIDDLE_7.*--dataset CHAOST2 --min-size 1000`"
    with pytest.raises(UserError, match=message):
        load(layout, more_supervoxels=finer_layouts)


def test_a_further_set_of_another_shape_is_named(layout, finer_layouts):
    write_volume(finer_layouts[1].supervoxel_path(7), np.zeros((2, 8, 6), np.int32), SHORT)
    with pytest.raises(UserError, match=r"supervoxels_1/.*grid \(2, 8, 6\).*delete the file"):
        load(layout, more_supervoxels=finer_layouts)


@pytest.mark.parametrize("size_px", [(0, 4), (4,), (4.5, 4)])
def test_an_impossible_size_is_refused(layout, size_px):
    with pytest.raises(UserError, match="image_size_px="):
        load(layout, image_size_px=size_px)
