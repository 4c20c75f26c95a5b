"""Scans of any format as a custom dataset: their common frame, and files that are written once."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data.custom_spec import read_dataset_json
from data.prepare.training_scans import choose_preparation, write_training_scans
from data.transforms import prepared_grid
from tests.data.dicom_series import write_series
from tests.oriented_scans import is_bright, l_scan
from util.errors import UserError
from util.io.image_io import Geometry, read_raw_volume, write_volume
from util.io.itk_files import write_itk_volume
from util.remarks import Remark


def _axial(shape, spacing_mm):
    return Geometry(shape, spacing_mm, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def test_scans_of_one_grid_keep_it():
    grids = [_axial((20, 64, 64), (6.0, 1.5, 1.5))] * 3
    for grid in grids:
        assert prepared_grid(grid, choose_preparation(grids, modality="MR")) == grid


def test_the_frame_holds_every_scan_at_the_median_spacing():
    grids = [_axial((9, 100, 90), (5.0, 1.0, 1.0)), _axial((9, 60, 60), (7.0, 2.0, 2.0))]
    preparation = choose_preparation([*grids, _axial((9, 50, 50), (9.0, 2.0, 2.0))], modality="MR")
    assert preparation.orientation == "LPS"
    assert preparation.spacing_mm == (7.0, 2.0, 2.0)
    assert preparation.size_px == (64, 64)  # 120 mm are 60 px; a multiple of 8
    assert (preparation.clip_percentile, preparation.window) == (99.5, None)


def test_large_slices_get_256_px_and_ct_its_window():
    preparation = choose_preparation([_axial((9, 512, 512), (3.0, 0.8, 0.8))] * 2, modality="CT")
    assert preparation.spacing_mm == (3.0, pytest.approx(1.6), pytest.approx(1.6))
    assert preparation.size_px == (256, 256)
    assert (preparation.clip_percentile, preparation.window) == (None, (-125.0, 275.0))


def test_all_scans_get_the_slice_axis_of_the_annotated_one():
    axial = _axial((20, 64, 60), (6.0, 1.5, 1.5))
    sagittal = replace(axial, direction=(0.0, 0, 1.0, 1.0, 0, 0, 0, 1.0, 0))
    preparation = choose_preparation([sagittal, axial], modality="MR")
    assert preparation.orientation == "PSL"
    # The axial scan is 90 mm along x, 96 mm along y and 120 mm along z.
    assert preparation.spacing_mm == (3.75, 3.75, 3.75)
    assert preparation.size_px == (32, 32)


@pytest.fixture(name="sources")
def _sources(tmp_path):
    scans = {"a.nii.gz": l_scan("LPS"), "b.nrrd": l_scan("RAS"), "c.mha": l_scan("LIP", is_oblique=True)}
    for name, scan in scans.items():
        write = write_volume if name.endswith(".gz") else write_itk_volume
        write(tmp_path / name, scan.voxels, scan.geometry)
    return [tmp_path / name for name in scans]


def _write(folder, sources, modality="MR"):
    mask = 5 * is_bright(l_scan("LPS")).astype(np.uint16)
    return write_training_scans(folder, sources, mask, modality=modality)


def test_scans_of_all_formats_become_a_custom_dataset_with_one_mask(sources, tmp_path):
    raw = tmp_path / "raw"
    assert _write(raw, sources) == {}
    for number, letters in enumerate(("LPS", "RAS", "LIP")):
        voxels, geometry = read_raw_volume(raw / f"image_{number}.nii.gz")
        scan = l_scan(letters, is_oblique=letters == "LIP")
        assert np.array_equal(voxels, scan.voxels)
        assert geometry.same_grid(scan.geometry, tolerance_mm=1e-4)
    assert np.array_equal(read_raw_volume(raw / "label_0.nii.gz")[0], is_bright(l_scan("LPS")))
    own = read_dataset_json(raw / "dataset.json")
    assert (own.spec.labels, own.preparation.orientation, own.channel) == ({1: "label 1"}, "LPS", "MR")


def test_a_second_call_writes_what_changed_and_removes_what_is_gone(sources, tmp_path):
    raw = tmp_path / "raw"
    _write(raw, sources)
    before = {path.name: path.stat().st_mtime_ns for path in raw.glob("*.nii.gz")}
    changed = l_scan("RAS")
    write_itk_volume(sources[1], 2 * changed.voxels, changed.geometry)
    _write(raw, sources[:2])
    after = {path.name: path.stat().st_mtime_ns for path in raw.glob("*.nii.gz")}
    assert set(after) == {"image_0.nii.gz", "image_1.nii.gz", "label_0.nii.gz"}
    assert {name for name in after if after[name] != before[name]} == {"image_1.nii.gz"}
    assert set(json.loads((raw / "scans.json").read_text())) == set(after)


def test_intensities_unlike_the_modality_are_remarked_on_before_training(sources, tmp_path):
    with pytest.warns(Remark) as remarks:
        _write(tmp_path / "ct", sources, modality="CT")
    names = [str(entry.message).partition(": the lowest intensity is")[0] for entry in remarks]
    assert names == list(map(str, sources))


def test_unusable_scans_are_left_out_unless_none_remains(sources, tmp_path):
    sources[1].write_bytes(b"damaged")
    [(path, fault)] = _write(tmp_path / "raw", sources).items()
    assert path == sources[1]
    assert "cannot be read" in fault
    assert len(list((tmp_path / "raw").glob("image_*.nii.gz"))) == 2
    with pytest.raises(UserError, match="query: none of the scans can be read"):
        _write(tmp_path / "none", sources[:2])
    write_series(tmp_path / "ct", l_scan().voxels, l_scan().geometry, tags=[("0008|0060", "CT")])
    [(path, fault)] = _write(tmp_path / "mixed", [sources[0], sources[2], tmp_path / "ct"]).items()
    assert path == tmp_path / "ct"
    assert f"{path}: must be MR" in fault
    sources[0].write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"a\.nii\.gz: cannot be read"):
        _write(tmp_path / "first", sources)
