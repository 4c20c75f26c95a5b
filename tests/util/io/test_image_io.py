"""Volumes keep their voxels and geometry; damaged files are refused."""

import gzip
import math
import resource
from contextlib import contextmanager

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from util.errors import UserError
from util.io.image_io import Geometry, read_geometry, read_volume, to_sitk, write_volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def _turned(angle_deg, tilt_deg):
    """Direction cosines, columns per axis x, y, z: turned about z, then tilted about x."""
    a, t = math.radians(angle_deg), math.radians(tilt_deg)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(t), -math.sin(t)], [0, math.sin(t), math.cos(t)]])
    return tuple((about_x @ about_z).ravel())


GEOMETRIES = {
    "axial": Geometry((3, 4, 5), (7.7, 1.25, 1.5), (10.0, -20.0, 30.0), AXIAL),
    "flipped rows": Geometry((3, 4, 5), (7.7, 1.25, 1.5), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, 1)),
    "oblique": Geometry((3, 4, 5), (8.0, 0.5, 2.0), (-11.5, 22.25, 333.0), _turned(25, -40)),
}


@pytest.fixture(name="geometry", params=GEOMETRIES.values(), ids=GEOMETRIES)
def _geometry(request):
    return request.param


def _volume(shape=(3, 4, 5), dtype=np.int16):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


@pytest.fixture(name="path")
def _path(tmp_path):
    """A whole file whose voxels do not compress away."""
    path = tmp_path / "image_7.nii.gz"
    geometry = Geometry((8, 30, 40), (7.7, 1.25, 1.5), (1.0, 2.0, 3.0), AXIAL)
    write_volume(path, np.random.default_rng(0).integers(0, 30000, (8, 30, 40)).astype(np.int16), geometry)
    return path


def test_voxels_and_geometry_survive_writing_and_reading(tmp_path, geometry):
    volume = _volume()
    write_volume(tmp_path / "a.nii.gz", volume, geometry)
    stored, result = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(stored, volume)
    assert result.shape == geometry.shape
    np.testing.assert_allclose(result.spacing_mm, geometry.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(result.origin_mm, geometry.origin_mm, rtol=1e-6)
    np.testing.assert_allclose(result.direction, geometry.direction, atol=1e-6)
    assert result.same_grid(geometry)


def test_another_reader_finds_each_voxel_where_the_geometry_puts_it(tmp_path, geometry):
    # NIfTI's patient axes point right-to-left and back-to-front the other way: x and y change sign.
    write_volume(tmp_path / "a.nii.gz", _volume(), geometry)
    affine = nibabel.load(tmp_path / "a.nii.gz").affine
    axes = np.array(geometry.direction).reshape(3, 3)
    step_z, step_y, step_x = geometry.spacing_mm
    for x, y, z in ((0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 2), (4, 3, 2)):
        position_mm = np.array(geometry.origin_mm) + axes @ (x * step_x, y * step_y, z * step_z)
        np.testing.assert_allclose(
            affine @ (x, y, z, 1), [-position_mm[0], -position_mm[1], position_mm[2], 1], atol=1e-3
        )


def test_another_reader_finds_the_voxels_in_reverse_axis_order(tmp_path):
    volume = _volume()
    write_volume(tmp_path / "a.nii.gz", volume, GEOMETRIES["axial"])
    file = nibabel.load(tmp_path / "a.nii.gz")
    assert np.array_equal(np.asarray(file.dataobj), volume.transpose(2, 1, 0))
    np.testing.assert_allclose(file.header.get_zooms(), (1.5, 1.25, 7.7), rtol=1e-6)


def test_positions_equal_simpleitks_and_convert_back(geometry):
    image = to_sitk(_volume(), geometry)
    for index in ((0, 0, 0), (0, 0, 4), (0, 3, 0), (2, 0, 0), (2, 3, 4)):
        expected = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(geometry.position_mm(index), expected, atol=1e-9)
        np.testing.assert_allclose(geometry.index_at(expected), index, atol=1e-9)
    many = np.moveaxis(np.indices(geometry.shape), 0, -1)
    np.testing.assert_allclose(geometry.index_at(geometry.position_mm(many)), many, atol=1e-9)


def test_axes_are_in_array_order(geometry):
    for axis, step_mm in enumerate(geometry.spacing_mm):
        index = np.eye(3)[axis]
        step = (geometry.position_mm(index) - geometry.position_mm((0, 0, 0))) / step_mm
        np.testing.assert_allclose(geometry.axes[:, axis], step, atol=1e-9)
    assert geometry.with_axes(geometry.axes) == geometry


def test_files_of_another_writer_are_read_by_the_same_rule(tmp_path):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[-2.0, 0, 0, 5], [0, -3.0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    stored, geometry = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(stored, voxels.T)
    assert geometry == Geometry((4, 3, 2), (4.0, 3.0, 2.0), (-5.0, -6.0, 7.0), AXIAL)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_the_dtype_is_kept(tmp_path, dtype):
    write_volume(tmp_path / "a.nii.gz", _volume(dtype=dtype), GEOMETRIES["axial"])
    assert read_volume(tmp_path / "a.nii.gz")[0].dtype == dtype


def test_a_non_contiguous_volume_is_written_correctly(tmp_path):
    volume = _volume((5, 4, 3)).transpose(2, 1, 0)
    write_volume(tmp_path / "a.nii.gz", volume, GEOMETRIES["axial"])
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz")[0], volume)


def test_read_geometry_equals_that_of_the_volume(tmp_path, geometry):
    write_volume(tmp_path / "a.nii.gz", _volume(), geometry)
    assert read_geometry(tmp_path / "a.nii.gz") == read_volume(tmp_path / "a.nii.gz")[1]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"origin_mm": (10.009, -20.0, 30.0)}, True),
        ({"origin_mm": (10.02, -20.0, 30.0)}, False),
        ({"spacing_mm": (7.7, 1.25, 1.52)}, False),
        ({"shape": (3, 5, 4)}, False),
        ({"direction": GEOMETRIES["flipped rows"].direction}, False),
    ],
)
def test_grids_are_the_same_within_a_hundredth_of_a_millimetre(change, same):
    axial = GEOMETRIES["axial"]
    other = Geometry(**{**vars(axial), **change})
    assert axial.same_grid(other) is same
    assert other.same_grid(axial) is same


def test_a_volume_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"volume shape \(3, 4, 6\) must equal the geometry's \(3, 4, 5\)"):
        write_volume(tmp_path / "a.nii.gz", _volume((3, 4, 6)), GEOMETRIES["axial"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [read_volume, read_geometry])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(UserError, match=r"image_7\.nii\.gz: no such file"):
        read(tmp_path / "image_7.nii.gz")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path)


@pytest.mark.parametrize("read", [read_volume, read_geometry])
@pytest.mark.parametrize("content", [b"", b"no image\n" * 100, gzip.compress(b"no image\n" * 100, mtime=0)])
def test_a_file_that_is_not_an_image_is_refused_in_one_line(tmp_path, read, content):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.nii\.gz: cannot be read as an image \(.+\); restore") as caught:
        read(tmp_path / "a.nii.gz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing_bytes", [1, 8, 200, 5000])
def test_a_truncated_file_is_refused(path, missing_bytes):
    # ITK alone gives zeros for the missing voxels without a word.
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    with pytest.raises(UserError, match=r"image_7\.nii\.gz: cannot be read as an image \(.*ended before"):
        read_volume(path)


def test_a_file_whose_checksum_is_wrong_is_refused(path):
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"image_7\.nii\.gz: cannot be read as an image \("):
        read_volume(path)


def test_an_uncompressed_file_with_a_gz_suffix_is_read(path):
    volume, geometry = read_volume(path)
    path.write_bytes(gzip.decompress(path.read_bytes()))
    stored, result = read_volume(path)
    assert np.array_equal(stored, volume)
    assert result == geometry


@pytest.mark.parametrize("read", [read_volume, read_geometry])
@pytest.mark.parametrize(
    ("shape", "is_vector", "size"),
    [
        ((5, 6), False, "(6, 5)"),
        ((2, 3, 5, 6), False, "(6, 5, 3, 2)"),
        ((4, 5, 6, 3), True, "(6, 5, 4, 1, 3)"),
    ],
    ids=["2D", "4D", "colours"],
)
def test_only_3d_images_of_scalars_are_read(tmp_path, read, shape, is_vector, size):
    image = sitk.GetImageFromArray(np.zeros(shape, np.float32), isVector=is_vector)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.nii.gz")
    assert f"a.nii.gz: must be a 3D image of single values, got size {size}; split it" in str(caught.value)


def test_a_failed_write_leaves_the_previous_volume(path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Exception thrown in SimpleITK\nITK ERROR: no room\nsitk::ERROR: no room")

    before = path.read_bytes()
    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(UserError, match=r"image_7\.nii\.gz: cannot be written \(no room\); is the disk full"):
        write_volume(path, _volume(), GEOMETRIES["axial"])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@contextmanager
def _file_size_limit(n_bytes):
    """Let writes beyond a file's first bytes fail, as those to a full disk do."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit_bytes", [0, 500, 9000])
def test_a_disk_that_fills_up_while_writing_is_reported(path, limit_bytes):
    # ITK alone leaves a cut file without a word.
    before, geometry = path.read_bytes(), read_geometry(path)
    volume = np.random.default_rng(1).integers(0, 30000, geometry.shape).astype(np.int16)
    with (
        pytest.raises(UserError, match=r"image_7\.nii\.gz: cannot be written"),
        _file_size_limit(limit_bytes),
    ):
        write_volume(path, volume, geometry)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    write_volume(path, volume, geometry)  # with room again
    assert np.array_equal(read_volume(path)[0], volume)
