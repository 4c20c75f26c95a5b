"""NIfTI's bytes are unpacked no further than the header claims, and headers claim no more than can be."""

import gzip
import struct
import time

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from data.raw.nifti import read_nifti
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


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (np.nan, np.nan, VOXELS),
        (np.nan, 5.0, VOXELS),
        (1.0, np.nan, VOXELS),
        (0.0, np.nan, VOXELS),
        (0.0, 0.0, VOXELS),
        (2.0, np.nan, 2.0 * VOXELS),
    ],
)
def test_a_scaling_that_is_no_number_means_none(path, slope, intercept, expected):
    _change(path, 112, "ff", slope, intercept)
    for read in (read_volume, read_nifti):
        voxels, _ = read(path)
        np.testing.assert_array_equal(voxels, expected)
        assert voxels.dtype == (np.float32 if slope == 2 else np.int16)


@pytest.mark.parametrize("scaling", [(np.inf, 0.0), (1.0, np.inf), (np.nan, -np.inf), (0.0, np.inf)])
def test_an_infinite_scaling_is_refused(path, scaling):
    _change(path, 112, "ff", *scaling)
    for read in (read_volume, read_nifti):
        with pytest.raises(UserError, match=r"image_7\.nii\.gz: .*voxels scaled by .*inf"):
            read(path)


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
        (112, "ff", (np.inf, 0.0), "voxels scaled by inf and 0"),
        (112, "ff", (1.0, -np.inf), "voxels scaled by 1 and -inf"),
        (112, "ff", (np.nan, np.inf), "voxels scaled by nan and inf"),
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


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_file_may_be_filled_up_with_64_kib_of_zeros(path, pack):
    raw = gzip.decompress(path.read_bytes())
    for n_bytes in (1, 65536):
        path.write_bytes(pack(raw + bytes(n_bytes)))
        for read in (read_volume, read_nifti):
            np.testing.assert_array_equal(read(path)[0], VOXELS)
    path.write_bytes(pack(raw + bytes(65537)))
    for read in (read_volume, read_nifti):
        with pytest.raises(
            UserError, match=rf"image_7\.nii\.gz: .*it holds more than {len(raw) + 65536} bytes"
        ):
            read(path)


def test_only_raw_files_may_be_filled_up_with_anything(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0\1"))
    np.testing.assert_array_equal(read_nifti(path)[0], VOXELS)
    with pytest.raises(UserError, match=r"it holds more than the 736 bytes that it claims\)"):
        read_volume(path)


@pytest.mark.parametrize(
    "ends", [(0,), (1,), (0, 0, 347), (2, 100, 347), (348,), (351, 352, 360), range(736)]
)
def test_a_gzip_file_may_have_members_of_any_length(path, ends):
    raw, volume = gzip.decompress(path.read_bytes()), read_volume(path)
    pieces = zip((0, *ends), (*ends, len(raw)), strict=True)
    path.write_bytes(b"".join(gzip.compress(raw[start:end]) for start, end in pieces))
    for read in (read_volume, read_nifti):
        voxels, geometry = read(path)
        np.testing.assert_array_equal(voxels, VOXELS)
        assert geometry == volume[1]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VOXELS)


@pytest.mark.parametrize("length", [0, 1, 3000, 70_000])
def test_members_are_unpacked_as_gzip_does(length):
    pieces = [np.random.default_rng(n).bytes(length) for n in range(40)]
    packed = b"".join(gzip.compress(piece, 1) + bytes(n) for n, piece in enumerate(pieces))
    assert unpack(packed, 40 * length) == gzip.decompress(packed) == b"".join(pieces)
    assert unpack(packed, 30 * length, whole=False) == b"".join(pieces[:30])
    for missing in (40, 45, 55):  # the last member's filling is 39 bytes, its checksum stands before that
        with pytest.raises(NiftiFault, match="it ended before its end"):
            unpack(packed[:-missing], 40 * length)


@pytest.mark.parametrize("which", [0, 1, 29])
def test_a_wrong_checksum_is_found_in_every_member(which):
    members = [bytearray(gzip.compress(bytes([n]) * 9000)) for n in range(30)]
    members[which][-8] ^= 1
    with pytest.raises(NiftiFault, match="incorrect data check"):
        unpack(b"".join(members), 30 * 9000)


def test_a_gzip_file_of_very_many_members_takes_time_by_its_length():
    empty, single = gzip.compress(b""), gzip.compress(b"a")
    assert unpack(empty * 1000 + single + empty * 1000, 1) == b"a"
    start = time.process_time()
    for content in (empty * 60_000, single + empty * 60_000):
        for whole in (True, False):
            with pytest.raises(NiftiFault, match="more than 1000 empty gzip members in a row"):
                unpack(content, 348, whole=whole)
    assert unpack(single * 60_000, 60_000) == b"a" * 60_000
    assert time.process_time() - start < 0.5  # copying all that follows a member took 1 s and more each


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize(("code", "place"), [(252, 256), (252, 272), (254, 280), (254, 324)])
def test_a_place_that_is_none_is_refused(tmp_path, value, code, place):
    path = tmp_path / "a.nii"
    volume = np.zeros((3, 4, 5), np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<h", content, code, 1)
    struct.pack_into("<f", content, place, value)
    path.write_bytes(content)
    with pytest.raises(NiftiFault, match="its place in the patient is none"):
        read_header(path)
