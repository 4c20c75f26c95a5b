"""NIfTI volumes read as SimpleITK reads them, but for what it hides."""

import gzip
import math

import nibabel
import numpy as np
import pytest

from data.raw.nifti import read_nifti
from tests.data.raw.raw_sets import nifti_geometry, write_nifti
from util.image_io import read_volume

GEOMETRY = nifti_geometry((3, 4, 5), (6.0, 1.5, 1.25), angle=0.4)


def _voxels(dtype):
    return np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_voxels_and_geometry_are_what_was_written(tmp_path, dtype, name):
    write_nifti(tmp_path / name, _voxels(dtype), GEOMETRY)
    voxels, geometry = read_nifti(tmp_path / name)
    np.testing.assert_array_equal(voxels, _voxels(dtype))
    assert voxels.dtype == dtype
    assert geometry.same_grid(GEOMETRY, tolerance_mm=1e-4)


@pytest.mark.parametrize("endianness", ["<", ">"])
def test_scaling_and_byte_order_are_applied_as_simpleitk_does(tmp_path, endianness):
    header = nibabel.Nifti1Header(endianness=endianness)
    header.set_data_dtype(np.int16)
    header.set_slope_inter(0.5, -1000)
    affine = np.diag([1.25, 1.5, 6.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(_voxels(np.float64).T, affine, header), tmp_path / "a.nii.gz")
    voxels, geometry = read_nifti(tmp_path / "a.nii.gz")
    expected, expected_geometry = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(voxels, _voxels(np.float64), atol=0.25)
    np.testing.assert_allclose(voxels, expected, rtol=1e-6)
    assert voxels.dtype == np.float32
    assert geometry == expected_geometry


def test_double_precision_becomes_single(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", _voxels(np.float64) + 0.25, GEOMETRY)
    voxels, _ = read_nifti(tmp_path / "a.nii.gz")
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, _voxels(np.float64) + 0.25)


def test_what_is_no_number_stays_so(tmp_path):
    stored = _voxels(np.float32)
    stored[1, 2, 3], stored[0, 0, 0] = math.nan, math.inf
    write_nifti(tmp_path / "a.nii.gz", stored, GEOMETRY)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz")[0], stored)


def test_a_plain_file_may_have_the_packed_ones_name(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", _voxels(np.int16), GEOMETRY)
    (tmp_path / "a.nii.gz").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz")[0], _voxels(np.int16))
