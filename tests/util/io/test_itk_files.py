"""NRRD and MetaImage files: a round trip keeps voxels and grid; what is not a scan is refused in one line."""

import numpy as np
import pytest
import SimpleITK as sitk

from util.errors import UserError
from util.io.image_io import Geometry
from util.io.itk_files import image_arrays, read_itk_volume, write_itk_volume

COSINE, SINE = np.cos(0.3), np.sin(0.3)
OBLIQUE = Geometry(
    (3, 4, 5), (2.5, 1.5, 0.5), (-10.0, 20.0, 7.5), (1.0, 0.0, 0.0, 0.0, COSINE, -SINE, 0.0, SINE, COSINE)
)
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_round_trip_keeps_voxels_and_oblique_grid(tmp_path, ending):
    path = tmp_path / f"scan{ending}"
    write_itk_volume(path, VOXELS, OBLIQUE)
    voxels, geometry = read_itk_volume(path)
    assert voxels.dtype == np.int16
    assert np.array_equal(voxels, VOXELS)
    assert geometry.same_grid(OBLIQUE, tolerance_mm=1e-6)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_doubles_become_float32(tmp_path):
    image = sitk.GetImageFromArray(VOXELS.astype(np.float64))
    assert image_arrays(image, name="scan")[0].dtype == np.float32


SPACE = b"space: left-posterior-superior"
DIRECTIONS = b"space directions: (1,0,0) (0,1,0) (0,0,1)"
CENTIMETRES = b'\nspace units: "cm" "cm" "cm"'
WITHOUT_SPACE = (
    (SPACE + b"\n", b""),
    (DIRECTIONS, b"spacings: 1 1 1"),
    (b"space origin: (0,0,0)\n", b""),
)


def _write(path, image, *changes):
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    for old, new in changes:
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("a.nrrd", WITHOUT_SPACE, "orientation unknown"),
        ("a.nrrd", [(SPACE, b"space: scanner-xyz")], r"orientation unknown \(NRRD space scanner-xyz, must"),
        ("a.nrrd", [(SPACE, b"space: 3D-right-handed")], "orientation unknown"),
        ("a.nrrd", [(DIRECTIONS + b"\n", b"")], "orientation and spacing unknown"),
        ("a.nrrd", [(SPACE, SPACE + CENTIMETRES)], "must be in mm, got NRRD space units cm cm cm"),
        ("a.mha", [(b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n", b"")], "orientation unknown"),
        ("a.mha", [(b"ElementSpacing = 1 1 1\n", b"")], "spacing unknown"),
        ("a.mha", [(b"ElementSpacing", b"DistanceUnits = cm\nElementSpacing")], "must be in mm, got Dist"),
        ("a.nrrd", [(b"sizes: 5 4 3", b"sizes: 5 4 9")], "cannot be read as an image"),
        ("a.mha", [(b"DimSize = 5 4 3", b"DimSize = 99999 99999 3")], "header claims a size of"),
        (
            "a.mha",
            [(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 900")],
            "spacing must be 0.01 to 100 mm",
        ),
        ("a.mha", [(b"TransformMatrix = 1 0 0", b"TransformMatrix = 1 1 0")], "not perpendicular"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, name, changes, message):
    path = tmp_path / name
    _write(path, sitk.GetImageFromArray(VOXELS), *changes)
    with pytest.raises(UserError, match=message) as caught:
        read_itk_volume(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_the_three_spaces_that_itk_knows_and_millimetres_are_read(tmp_path):
    path, units = tmp_path / "a.nrrd", b'\nspace units: "mm" "mm" "mm"'
    for space, signs in (("LPS", (1, 1)), ("right-anterior-superior", (-1, -1)), ("LAS", (1, -1))):
        _write(path, sitk.GetImageFromArray(VOXELS), (SPACE, b"space: " + space.encode() + units))
        axes = read_itk_volume(path)[1].axes
        assert np.array_equal(axes[:, ::-1], np.diag([*signs, 1]))
    meta = tmp_path / "a.mha"
    _write(meta, sitk.GetImageFromArray(VOXELS), (b"ElementSpacing", b"DistanceUnits = mm\nElementSpacing"))
    assert read_itk_volume(meta)[1].spacing_mm == (1, 1, 1)


def test_other_kinds_of_images_are_refused(tmp_path):
    colours = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    series = sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.int16))
    flat = sitk.GetImageFromArray(np.zeros((4, 5), np.int16))
    for number, image in enumerate((colours, series, flat)):
        path = tmp_path / f"{number}.nrrd"
        sitk.WriteImage(image, str(path))
        with pytest.raises(UserError, match="must be a 3D image of single values"):
            read_itk_volume(path)
    with pytest.raises(UserError, match="no such file"):
        read_itk_volume(tmp_path / "none.mha")
