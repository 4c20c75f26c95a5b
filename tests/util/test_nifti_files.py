"""NIfTI's bytes are unpacked no further than the header claims, and headers claim no more than can be."""

import gzip
import struct
import time

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from tests.fuzzing.byte_damages import zero_bomb
from util.errors import UserError
from util.image_io import Geometry, read_geometry, read_volume, write_volume
from util.nifti_files import NiftiFault, read_header, unpack

VOXELS = np.random.default_rng(0).integers(-500, 30000, (4, 6, 8)).astype(np.int16)
GEOMETRY = Geometry((4, 6, 8), (7.7, 1.25, 1.5), (1.0, 2.0, 3.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


@pytest.fixture(name="path")
def _path(tmp_path):
    write_volume(tmp_path / "image_7.nii.gz", VOXELS, GEOMETRY)
    return tmp_path / "image_7.nii.gz"


def _change(path, place, form, *values):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(f"<{form}", raw, place, *values)
    path.write_bytes(gzip.compress(bytes(raw)))


def test_a_header_says_how_voxels_are_stored(path):
    header = read_header(path)
    assert (header.shape, header.dtype, header.offset) == ((4, 6, 8), np.int16, 352)
    assert (header.slope, header.intercept) == (1, 0)
    assert header.n_bytes == 352 + 2 * 4 * 6 * 8


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_scaled_voxels_and_both_byte_orders_are_read_as_itk_reads_them(tmp_path, endianness, dtype):
    header = nibabel.Nifti1Header(endianness=endianness)
    header.set_data_dtype(dtype)
    header.set_slope_inter(0.5, -10)
    image = nibabel.Nifti1Image(VOXELS.T % 100, np.diag([1.25, 1.5, 6.0, 1.0]), header)
    nibabel.save(image, tmp_path / "a.nii.gz")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz")[0], expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused_and_not_taken_for_0(path, value):
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = voxels[2, 2, 2] = value
    write_volume(path, voxels, GEOMETRY)
    with pytest.raises(UserError, match=r"image_7\.nii\.gz: image must be finite, got 2 NaN or infinite"):
        read_volume(path)


@pytest.mark.parametrize(
    ("place", "form", "values", "told"),
    [
        (
            40,
            "hhhh",
            (3, 32767, 32767, 32767),
            r"it claims \d{14} bytes for its shape \(32767, 32767, 32767\)",
        ),
        (42, "h", (0,), "it claims the size"),
        (44, "h", (-3,), "it claims the size"),
        (42, "h", (7,), "it holds more than the 688 bytes"),
        (42, "h", (9,), "it ended before the 784 bytes"),
        (40, "h", (99,), "it claims the size"),
        (72, "h", (32,), "32 bits a voxel for int16"),
        (80, "f", (0.0,), r"spacing must be above 0 mm, got \[0\.0"),
        (84, "f", (-1.0,), "spacing must be above 0 mm"),
        (88, "f", (np.nan,), "spacing must be above 0 mm"),
        (80, "f", (np.inf,), "spacing must be above 0 mm"),
        (108, "f", (np.nan,), "voxels that begin at byte nan"),
        (108, "f", (100.0,), "voxels that begin at byte 100"),
        (112, "ff", (np.nan, 0.0), "voxels scaled by nan and 0"),
        (344, "4s", (b"ni1\0",), "its header and voxels are not in one file"),
        (0, "i", (540,), "no NIfTI-1 header"),
    ],
)
def test_a_header_that_cannot_be_is_refused(path, place, form, values, told):
    _change(path, place, form, *values)
    with pytest.raises(UserError, match=rf"image_7\.nii\.gz: cannot be read as an image \({told}.*; restore"):
        read_volume(path)


def test_axes_that_lean_over_are_refused(path):
    _change(path, 252, "hh", 0, 1)
    _change(path, 280, "12f", 1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    for read in (read_volume, read_geometry):
        with pytest.raises(UserError, match=r"image_7\.nii\.gz: cannot be read as an image \("):
            read(path)


@pytest.mark.parametrize("claims", [False, True])
def test_a_gzip_bomb_is_refused_before_it_is_unpacked(path, claims):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    if claims:
        struct.pack_into("<hhhh", raw, 40, 3, 32767, 32767, 32767)
    path.write_bytes(zero_bomb(bytes(raw), 500))
    start = time.process_time()
    with pytest.raises(UserError, match=r"it (holds more|claims)"):
        read_volume(path)
    assert time.process_time() - start < 0.2  # 500 MiB take longer than that to unpack


def test_unpacking_stops_where_it_may():
    packed = gzip.compress(b"abcdef")
    assert unpack(packed, 6) == b"abcdef"
    assert unpack(packed, 3, whole=False) == b"abc"
    assert unpack(packed + gzip.compress(b"gh") + bytes(5), 8) == b"abcdefgh"
    assert unpack(b"abc", 9) == b"abc"
    for wrong, most in ((packed, 5), (packed[:-1], 6), (packed[:-9] + packed[-8:], 6), (b"abc", 2)):
        with pytest.raises(NiftiFault):
            unpack(wrong, most)
