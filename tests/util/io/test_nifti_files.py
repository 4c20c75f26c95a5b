"""NIfTI files are read no further than their header allows, and contradictory headers are refused."""

import gzip
import math
import struct
import time

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from tests.fuzzing.byte_damages import zero_bomb
from util.errors import UserError
from util.io.image_io import (
    Geometry,
    read_geometry,
    read_raw_geometry,
    read_raw_volume,
    read_volume,
    write_volume,
)
from util.io.nifti_files import read_header
from util.remarks import Remark

VOXELS = np.random.default_rng(0).integers(-500, 30000, (4, 6, 8)).astype(np.int16)
GEOMETRY = Geometry((4, 6, 8), (7.7, 1.25, 1.5), (1.0, 2.0, 3.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
READERS = (read_volume, read_raw_volume)
# Where the header's fields are, in bytes.
DIM, PIXDIM, OFFSET, SLOPE, UNITS, CODES, QUATERNION, SFORM = 40, 76, 108, 112, 123, 252, 256, 280


@pytest.fixture(name="path")
def _path(tmp_path):
    write_volume(tmp_path / "image_7.nii.gz", VOXELS, GEOMETRY)
    return tmp_path / "image_7.nii.gz"


def _change(path, *changes):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    for position, form, *values in changes:
        struct.pack_into(f"<{form}", raw, position, *values)
    path.write_bytes(gzip.compress(bytes(raw)))


def _rows(affine):
    return np.asarray(affine, float)[:3].ravel().tolist()


def _affine(path):
    return nibabel.load(path).affine


def test_a_header_describes_how_voxels_are_stored(path):
    header = read_header(path)
    assert (header.shape, header.dtype, header.offset) == ((8, 6, 4), np.int16, 352)
    assert (header.slope, header.intercept) == (1, 0)
    assert header.n_bytes == 352 + 2 * 4 * 6 * 8
    np.testing.assert_allclose(header.spacing_mm, (1.5, 1.25, 7.7), rtol=1e-6)
    np.testing.assert_allclose(header.affine, _affine(path), atol=1e-6)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_scaled_voxels_and_both_byte_orders_are_read_as_itk_reads_them(tmp_path, read, endianness, dtype):
    header = nibabel.Nifti1Header(endianness=endianness)
    header.set_data_dtype(dtype)
    header.set_slope_inter(0.5, -10)
    image = nibabel.Nifti1Image(VOXELS.T % 100, np.diag([1.25, 1.5, 6.0, 1.0]), header)
    nibabel.save(image, tmp_path / "a.nii.gz")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    np.testing.assert_allclose(read(tmp_path / "a.nii.gz")[0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_raw_voxels_and_geometry_are_what_was_written(tmp_path, dtype, name):
    turned = (math.cos(0.4), -math.sin(0.4), 0, math.sin(0.4), math.cos(0.4), 0, 0, 0, 1)
    geometry = Geometry((4, 6, 8), (6.0, 1.5, 1.25), (-30.5, -41.25, 12.0), turned)
    image = sitk.GetImageFromArray((VOXELS % 100).astype(dtype))
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(turned)
    sitk.WriteImage(image, str(tmp_path / name))
    voxels, result = read_raw_volume(tmp_path / name)
    np.testing.assert_array_equal(voxels, VOXELS % 100)
    assert voxels.dtype == dtype
    assert result.same_grid(geometry, tolerance_mm=1e-4)
    assert read_raw_geometry(tmp_path / name) == result


def test_raw_float64_becomes_float32_and_nan_is_kept(tmp_path):
    stored = VOXELS.astype(np.float64) + 0.25
    stored[1, 2, 3], stored[0, 0, 0] = math.nan, math.inf
    write_volume(tmp_path / "a.nii.gz", stored, GEOMETRY)
    voxels, _ = read_raw_volume(tmp_path / "a.nii.gz")
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, stored)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (np.nan, np.nan, VOXELS),
        (np.nan, 5.0, VOXELS),
        (1.0, np.nan, VOXELS),
        (0.0, np.nan, VOXELS),
        (0.0, 55.0, VOXELS),
        (2.0, np.nan, 2.0 * VOXELS),
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_a_nan_scaling_means_no_scaling(path, read, slope, intercept, expected):
    _change(path, (SLOPE, "ff", slope, intercept))
    voxels, _ = read(path)
    np.testing.assert_array_equal(voxels, expected)
    assert voxels.dtype == (np.float32 if slope == 2 else np.int16)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_voxels_are_refused_rather_than_read_as_0(path, value):
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = voxels[2, 2, 2] = value
    write_volume(path, voxels, GEOMETRY)
    with pytest.raises(UserError, match=r"image_7\.nii\.gz: image must be finite, got 2 NaN or infinite"):
        read_volume(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            (DIM, "hhhh", 3, 32767, 32767, 32767),
            r"header claims \d{14} bytes for shape \(32767, 32767, 32767\)",
        ),
        ((DIM + 2, "h", 0), "invalid size"),
        ((DIM + 4, "h", -3), "invalid size"),
        ((DIM, "h", 99), "invalid size"),
        ((DIM + 2, "h", 9), "truncated: 784 bytes expected"),
        ((72, "h", 32), "32 bits per voxel for int16"),
        ((OFFSET, "f", np.nan), "invalid voxel offset nan"),
        ((OFFSET, "f", 100.0), "invalid voxel offset 100"),
        ((SLOPE, "ff", np.inf, 0.0), "invalid voxel scaling by inf and 0"),
        ((SLOPE, "ff", 1.0, -np.inf), "invalid voxel scaling by 1 and -inf"),
        ((SLOPE, "ff", np.nan, np.inf), "invalid voxel scaling by nan and inf"),
        ((344, "4s", b"ni1\0"), "header and voxels must be in one NIfTI-1 file"),
        ((0, "i", 540), "not a NIfTI-1 header"),
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_an_invalid_header_is_refused(path, read, change, words):
    _change(path, change)
    with pytest.raises(
        UserError, match=rf"image_7\.nii\.gz: cannot be read as an image \({words}.*; restore"
    ):
        read(path)


def test_a_shape_that_is_too_small_is_refused_in_prepared_volumes(path):
    _change(path, (DIM + 2, "h", 7))
    with pytest.raises(UserError, match="longer than the 688 bytes"):
        read_volume(path)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_an_invalid_spacing_is_refused(path, value, axis):
    _change(path, (PIXDIM + 4 * axis, "f", value))
    for read in (read_volume, read_raw_volume, read_geometry):
        with pytest.raises(
            UserError, match=r"image_7\.nii\.gz: spacing must be above 0 mm along x, y, z, got"
        ):
            read(path)


# Two affines of the same voxels, the second with x mirrored.
LPS = np.array([[-3.0, 0, 0, 94.5], [0, -3.0, 0, 78], [0, 0, 6.0, -69], [0, 0, 0, 1]])
RPS = np.array([[3.0, 0, 0, -94.5], [0, -3.0, 0, 78], [0, 0, 6.0, -69], [0, 0, 0, 1]])


def _write_forms(path, *, qform=None, sform=None, codes=(1, 1), change=()):
    """Write a file with these affines; a form that is None gets the code 0."""
    image = nibabel.Nifti1Image(VOXELS.T, LPS)
    image.set_qform(LPS if qform is None else qform, code=codes[0] if qform is not None else 0)
    image.set_sform(LPS if sform is None else sform, code=codes[1] if sform is not None else 0)
    nibabel.save(image, path)
    if change:
        _change(path, *change)


def test_forms_that_disagree_by_a_rotation_show_their_axes(path):
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    _write_forms(path, qform=turn @ LPS, sform=LPS)
    with pytest.raises(
        UserError, match=r"qform \(code 1\) LPS along \(-0\.8 -0\.6 0\), \(0\.6 -0\.8 0\), \(0 0 1\)"
    ):
        read_volume(path)


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (4, 3)])
def test_forms_that_disagree_are_refused_with_both_readings(path, codes):
    _write_forms(path, qform=RPS, sform=LPS, codes=codes)
    for read in (read_volume, read_raw_volume, read_geometry, read_raw_geometry):
        with pytest.raises(UserError, match=r"image_7\.nii\.gz: the header contradicts itself") as caught:
            read(path)
        line = str(caught.value)
        assert f"qform (code {codes[0]}) RPS, 3 x 3 x 6 mm, origin (RAS) -94.5, 78, -69 mm" in line
        assert f"sform (code {codes[1]}) LPS, 3 x 3 x 6 mm, origin (RAS) 94.5, 78, -69 mm" in line
        assert "set_qform" in line


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        ({"qform": LPS, "sform": LPS}, LPS),
        ({"qform": RPS}, RPS),
        ({"sform": RPS}, RPS),
        ({"qform": RPS, "change": [(SFORM, "12f", *range(12))]}, RPS),  # code 0 counts for nothing
        ({"sform": LPS, "change": [(QUATERNION, "3f", 9.0, 9.0, 9.0), (PIXDIM, "f", 0.0)]}, LPS),
        ({"qform": LPS, "change": [(PIXDIM, "f", 0.0)]}, LPS),  # 0 means 1
    ],
)
def test_the_valid_form_sets_the_geometry(path, forms, expected):
    _write_forms(path, **forms)
    for read in (read_geometry, read_raw_geometry):
        geometry = read(path)
        for index in ((0, 0, 0), (3, 0, 0), (0, 5, 0), (0, 0, 7), (3, 5, 7)):
            position = expected @ (*index[::-1], 1)
            np.testing.assert_allclose(
                geometry.position_mm(index), [-position[0], -position[1], position[2]], atol=1e-4
            )


@pytest.mark.parametrize(
    ("offset", "refused"), [((0.05, 0, 0), False), ((0, 0.2, 0), True), ((0, 0, -0.11), True)]
)
def test_origins_of_both_forms_may_differ_by_a_tenth_of_a_millimetre(path, offset, refused):
    shifted = LPS.copy()
    shifted[:3, 3] += offset
    _write_forms(path, qform=shifted, sform=LPS)
    if refused:
        with pytest.raises(UserError, match="contradicts itself"):
            read_volume(path)
    else:
        read_volume(path)


@pytest.mark.parametrize(
    ("spacing", "refused"),
    [((3.0, 3.0, 6.003), False), ((3.0, 3.0, 6.012), True), ((1.0, 1.0, 1.0), True), ((3.0, 6.0, 3.0), True)],
)
@pytest.mark.parametrize("codes", [(0, 1), (1, 1)])
def test_pixdim_must_be_the_spacing_of_the_sform_within_a_thousandth(path, spacing, refused, codes):
    _write_forms(path, qform=LPS, sform=LPS, codes=codes, change=[(PIXDIM + 4, "3f", *spacing)])
    if not refused:
        read_volume(path)
        return
    with pytest.raises(UserError, match=r"contradicts itself: pixdim .* mm; .*sform \(code 1\) LPS, 3 x 3"):
        read_volume(path)


@pytest.mark.parametrize("units", [0, 2, 10, 255 & ~7 | 2])
def test_units_of_millimetres_or_none_are_millimetres(path, units):
    _write_forms(path, sform=LPS, change=[(UNITS, "B", units)])
    assert read_geometry(path).spacing_mm == (6.0, 3.0, 3.0)


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e-3), (3, 1e3)])
def test_true_metres_and_micrometres_become_millimetres(path, unit, factor):
    scaled = np.diag([factor, factor, factor, 1]) @ LPS
    spacing = (3 * factor, 3 * factor, 6 * factor)
    _write_forms(path, sform=scaled, change=[(UNITS, "B", unit), (PIXDIM + 4, "3f", *spacing)])
    geometry = read_geometry(path)
    np.testing.assert_allclose(geometry.spacing_mm, (6, 3, 3), rtol=1e-6)
    np.testing.assert_allclose(geometry.origin_mm, (-94.5, -78, -69), rtol=1e-6)


@pytest.mark.parametrize(
    ("factor", "unit", "words"),
    [
        (1.0, 1, r"got 3000 x 3000 x 6000 mm \(3 x 3 x 6 m by the header's xyzt_units\)"),
        (1.0, 3, r"got 0\.003 x 0\.003 x 0\.006 mm \(3 x 3 x 6 µm"),
        (40.0, 2, "got 120 x 120 x 240 mm; fix pixdim"),
        (1e-3, 2, r"got 0\.003 x 0\.003 x 0\.006 mm; fix pixdim"),
    ],
)
def test_an_implausible_spacing_is_refused_with_its_unit(path, factor, unit, words):
    scaled = np.diag([factor, factor, factor, 1]) @ LPS
    spacing = (3 * factor, 3 * factor, 6 * factor)
    _write_forms(path, sform=scaled, change=[(UNITS, "B", unit), (PIXDIM + 4, "3f", *spacing)])
    for read in (read_volume, read_raw_volume):
        with pytest.raises(UserError, match=rf"image_7\.nii\.gz: spacing must be 0\.01 to 100 mm, {words}"):
            read(path)


def test_a_raw_file_without_orientation_is_refused_unless_one_is_assumed(path):
    _write_forms(path)
    for read in (read_raw_volume, read_raw_geometry):
        with pytest.raises(UserError, match=r"orientation unknown .*\"assume_orientation\": \"RAS\""):
            read(path)
    geometry = read_raw_volume(path, assume_orientation="RAS")[1]
    right_to_anterior = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
    assert geometry == Geometry((4, 6, 8), (6.0, 3.0, 3.0), (0.0, 0.0, 0.0), right_to_anterior)
    turned = read_raw_geometry(path, assume_orientation="PIR")
    np.testing.assert_array_equal(np.reshape(turned.direction, (3, 3)), [[0, 0, -1], [1, 0, 0], [0, -1, 0]])


def test_a_prepared_file_without_orientation_is_warned_about(path):
    _write_forms(path)
    with pytest.warns(Remark, match=r"volumes without orientation .*LPS assumed"):
        geometry = read_volume(path)[1]
    assert geometry.direction == GEOMETRY.direction


@pytest.mark.parametrize("further", [(1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("read", READERS)
def test_axes_of_length_1_after_the_third_do_not_count(path, read, further):
    _change(path, (DIM, "8h", 3 + len(further), 8, 6, 4, *further, *(1,) * (4 - len(further))))
    voxels, geometry = read(path)
    np.testing.assert_array_equal(voxels, VOXELS)
    assert geometry.same_grid(GEOMETRY)


@pytest.mark.parametrize("dims", [(4, 8, 6, 2, 2), (5, 8, 3, 2, 2, 2), (2, 8, 24)])
def test_several_volumes_or_a_flat_image_are_refused(path, dims):
    _change(path, (DIM, "8h", *dims, *(1,) * (8 - len(dims))))
    with pytest.raises(UserError, match=r"must be a 3D image of single values, got size \("):
        read_volume(path)


@pytest.mark.parametrize(("code", "bits"), [(0, 0), (1, 1), (32, 64), (128, 24), (1536, 128), (999, 8)])
def test_voxels_that_are_not_scalars_are_refused(path, code, bits):
    _change(path, (70, "hh", code, bits))
    with pytest.raises(UserError, match=rf"single values, got voxels of .*\(datatype {code}\); convert it"):
        read_volume(path)


def test_sheared_axes_are_refused(path):
    leaning = LPS.copy()
    leaning[0, 1] = 0.05
    _write_forms(path, sform=leaning)
    for read in (read_volume, read_geometry):
        with pytest.raises(UserError, match=r"image_7\.nii\.gz: invalid sform \(axes that are not perp"):
            read(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize(
    ("form", "offset"),
    [("qform", QUATERNION), ("qform", QUATERNION + 16), ("sform", SFORM), ("sform", SFORM + 44)],
)
def test_an_invalid_affine_is_refused(path, value, form, offset):
    _write_forms(path, **{form: LPS}, change=[(offset, "f", value)])
    with pytest.raises(UserError, match=rf"invalid {form} \(not a (rotation|position)|contradicts itself"):
        read_header(path)


@pytest.mark.parametrize("claims", [False, True])
def test_a_gzip_bomb_is_refused_before_decompression(path, claims):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    if claims:
        struct.pack_into("<hhhh", raw, DIM, 3, 32767, 32767, 32767)
    path.write_bytes(zero_bomb(bytes(raw), 500))
    start = time.process_time()
    with pytest.raises(UserError, match=r"longer than|header claims"):
        read_volume(path)
    assert time.process_time() - start < 0.2  # 500 MiB take longer than that to unpack


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
@pytest.mark.parametrize("read", READERS)
def test_a_file_may_be_padded_with_64_kib_of_zeros(path, pack, read):
    raw = gzip.decompress(path.read_bytes())
    for n_bytes in (1, 65536):
        path.write_bytes(pack(raw + bytes(n_bytes)))
        np.testing.assert_array_equal(read(path)[0], VOXELS)
    path.write_bytes(pack(raw + bytes(65537)))
    with pytest.raises(UserError, match=rf"image_7\.nii\.gz: .*longer than {len(raw) + 65536} bytes"):
        read(path)


def test_only_raw_files_may_be_padded_with_any_bytes(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0\1"))
    np.testing.assert_array_equal(read_raw_volume(path)[0], VOXELS)
    with pytest.raises(UserError, match=r"longer than the 736 bytes of its header\)"):
        read_volume(path)


@pytest.mark.parametrize("ends", [(0,), (1,), (0, 0, 347), (2, 100, 347), (351, 352, 360), range(736)])
@pytest.mark.parametrize("read", READERS)
def test_a_gzip_file_may_have_members_of_any_length(path, read, ends):
    raw, volume = gzip.decompress(path.read_bytes()), read_volume(path)
    pieces = zip((0, *ends), (*ends, len(raw)), strict=True)
    path.write_bytes(b"".join(gzip.compress(raw[start:end]) + bytes(3) for start, end in pieces))
    voxels, geometry = read(path)
    np.testing.assert_array_equal(voxels, VOXELS)
    assert geometry == volume[1]


def test_a_wrong_checksum_or_a_cut_is_found_in_every_member(path):
    raw = gzip.decompress(path.read_bytes())
    members = [gzip.compress(raw[start : start + 100]) for start in range(0, len(raw), 100)]
    for which in range(len(members)):
        damaged = bytearray(members[which])
        damaged[-8] ^= 1
        path.write_bytes(b"".join([*members[:which], bytes(damaged), *members[which + 1 :]]))
        with pytest.raises(UserError, match=r"cannot be read as an image \(CRC check failed"):
            read_volume(path)
    path.write_bytes(b"".join(members)[:-1])
    with pytest.raises(UserError, match=r"cannot be read as an image \(.*ended before"):
        read_volume(path)


def test_an_uncompressed_file_may_have_a_gz_suffix(path):
    path.write_bytes(gzip.decompress(path.read_bytes()))
    np.testing.assert_array_equal(read_raw_volume(path)[0], VOXELS)
