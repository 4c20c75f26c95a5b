"""The frame of a network: scans of all orientations come to it, and their results go back unchanged."""

import json

import numpy as np
import pytest

from data.dataset_lookup import find_dataset
from data.datasets import find_spec
from data.layout import DatasetLayout
from data.model_frame import ModelFrame, find_frame, registration_frame, restore_probabilities
from data.transforms import Preparation, prepared_grid
from tests.oriented_scans import ORIENTATIONS, is_bright, l_scan, lps_grid
from util.errors import UserError
from util.evaluation.metrics import dice_and_iou
from util.io.grids import orientation
from util.io.image_io import write_volume

TURNED = Preparation(orientation="LAS")
CROPPED = Preparation(orientation="RPS", border_px=2, size_px=(28, 40))
RESAMPLED = Preparation(orientation="LAS", spacing_mm=(4.0, 1.2, 1.2), size_px=(40, 44))


def _round_trip(scan, preparation):
    """Return the object's probabilities, brought to a frame and back."""
    frame = ModelFrame(preparation, None, "test")
    image, _, prepared = frame.prepare(is_bright(scan).astype(np.float32), scan.geometry)
    return image, restore_probabilities(image, prepared, scan.geometry, preparation)


@pytest.mark.parametrize("is_oblique", [False, True])
@pytest.mark.parametrize("preparation", [TURNED, CROPPED])
def test_turning_and_cropping_are_undone_exactly_in_all_48_orientations(preparation, is_oblique):
    images = []
    for letters in ORIENTATIONS:
        scan = l_scan(letters, is_oblique=is_oblique)
        assert orientation(scan.geometry) == letters
        image, restored = _round_trip(scan, preparation)
        images.append(image)
        assert np.array_equal(restored, is_bright(scan))
    assert len(images) == 48
    assert all(np.array_equal(image, images[0]) for image in images)


@pytest.mark.parametrize("is_oblique", [False, True])
def test_resampled_probabilities_return_to_their_position(is_oblique):
    for letters in ORIENTATIONS:
        scan = l_scan(letters, is_oblique=is_oblique)
        _, restored = _round_trip(scan, RESAMPLED)
        mask = is_bright(scan)
        assert dice_and_iou(restored > 0.5, mask)[0] > 0.9
        centres = [scan.geometry.position_mm(np.argwhere(m).mean(axis=0)) for m in (restored > 0.5, mask)]
        assert np.allclose(*centres, atol=1.0)
        for axis in range(3):
            assert dice_and_iou(np.flip(restored > 0.5, axis), mask)[0] < 0.7


def test_the_last_slices_of_a_scan_are_not_lost():
    grid = lps_grid((12, 30, 32), spacing_mm=(2.0, 1.5, 1.5))
    frame = ModelFrame(Preparation(orientation="LPS", spacing_mm=(7.0, 1.5, 1.5)), None, "test")
    image, _, prepared = frame.prepare(np.ones(grid.shape, np.float32), grid)
    assert image.shape == (4, 30, 32)  # at 0, 7, 14 and 21 mm of a scan that ends at 23 mm
    restored = restore_probabilities(image, prepared, grid, frame.preparation)
    assert (restored == 1).all()


def _layout(name, data_dir, spec=None):
    return DatasetLayout(spec or find_spec(name), data_dir, data_dir, 1000)


def test_the_orientation_is_that_of_the_prepared_volumes(tmp_path):
    layout = _layout("CHAOST2", tmp_path)
    assert find_frame(layout).preparation.orientation == "LPS"
    scan = l_scan("LAS")
    write_volume(layout.image_path(3), scan.voxels, scan.geometry)
    frame = find_frame(layout)
    assert frame.preparation_of(lps_grid()).orientation == "LAS"
    assert "orientation LAS" in frame.describe()
    assert find_frame(layout, orientation_letters="RAS").preparation.orientation == "RAS"


def test_a_dataset_without_an_orientation_needs_its_volumes_or_a_request(tmp_path):
    layout = _layout("SABS", tmp_path)
    with pytest.raises(UserError, match="set data_dir to them, or orientation"):
        find_frame(layout)
    assert find_frame(layout, orientation_letters="LAS").preparation.border_px == 32
    scan = l_scan("RAS")
    write_volume(layout.image_path(0), scan.voxels, scan.geometry)
    assert find_frame(layout).preparation_of(lps_grid()).orientation == "RAS"


@pytest.mark.parametrize(
    ("size_px", "border_px", "factor"), [(512, 32, 1.75), (256, 16, 0.875), (320, 20, 1.09375)]
)
def test_borders_and_pixel_factors_follow_the_size_of_a_slice(tmp_path, size_px, border_px, factor):
    frame = find_frame(_layout("SABS", tmp_path), orientation_letters="LAS")
    geometry = lps_grid((5, size_px, size_px))
    preparation = frame.preparation_of(geometry)
    assert (preparation.border_px, preparation.in_plane_factor) == (border_px, factor)
    assert prepared_grid(geometry, preparation).shape == (5, 257, 257)


def test_registration_keeps_each_scans_own_grid_but_for_large_slices():
    frame = registration_frame("CT")
    image, _, geometry = frame.prepare(10 * l_scan("SPL").voxels, l_scan("SPL").geometry)
    assert (geometry.shape, geometry.spacing_mm) == ((12, 30, 32), (5.0, 1.5, 1.5))  # as it was stacked
    assert image.max() == 275
    assert registration_frame(None).prepare(10 * l_scan().voxels, lps_grid())[0].max() == 1000
    large = lps_grid((5, 300, 512))
    assert prepared_grid(large, frame.preparation_of(large)).shape == (5, 151, 257)
    assert prepared_grid(large, frame.preparation_of(large)).spacing_mm == (5.0, 3.0, 3.0)
    assert "each scan's own" in frame.describe()
    assert "at most 256 px" in frame.describe()


def test_prepared_volumes_keep_their_intensities(tmp_path):
    frame = find_frame(_layout("SABS", tmp_path), orientation_letters="LPS", are_prepared=True)
    image, _, geometry = frame.prepare(l_scan().voxels, lps_grid())
    assert np.array_equal(image, l_scan().voxels)
    assert geometry == lps_grid()


def test_phantoms_and_custom_datasets_have_the_frame_of_their_files(tmp_path):
    layout = _layout("PHANTOM", tmp_path)
    with pytest.raises(UserError, match="set data_dir to the folder of the training"):
        find_frame(layout)
    scan = l_scan("LAS")
    write_volume(layout.image_path(0), scan.voxels, scan.geometry)
    expected = Preparation(orientation="LAS", spacing_mm=scan.geometry.spacing_mm, size_px=(30, 32))
    assert find_frame(layout).preparation == expected

    own = {"name": "Own", "labels": {"background": 0, "organ": 1}, "clip": {"window": [0, 9]}}
    (tmp_path / "dataset.json").write_text(json.dumps(own | {"supervoxel_min_size_vox": 5}))
    frame = find_frame(_layout("Own", tmp_path, spec=find_dataset("Own", tmp_path)))
    assert frame.preparation.window == (0.0, 9.0)
    assert frame.preparation_of(l_scan("LSP").geometry).orientation == "LPS"


def test_a_frame_knows_the_modality_of_its_scans_where_the_dataset_tells_it(tmp_path):
    datasets = {"CHAOST2": "MR", "SABS": "CT", "CMR": "MR"}
    for name, modality in datasets.items():
        frame = find_frame(_layout(name, tmp_path), orientation_letters="LPS", are_prepared=True)
        assert (frame.modality, frame.are_prepared) == (modality, True)
    own = {"name": "Own", "labels": {"background": 0, "organ": 1}, "supervoxel_min_size_vox": 5}
    for channel, modality in (("CT", "CT"), ("T1", None)):
        (tmp_path / "dataset.json").write_text(json.dumps(own | {"channel_names": {"0": channel}}))
        assert find_frame(_layout("Own", tmp_path, spec=find_dataset("Own", tmp_path))).modality == modality


def test_an_impossible_orientation_is_refused(tmp_path):
    with pytest.raises(UserError, match="orientation=LLS: must be three letters"):
        find_frame(_layout("CHAOST2", tmp_path), orientation_letters="LLS")
