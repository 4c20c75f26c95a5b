"""Scans of every format and in memory: one grid whatever the reader; other things are refused."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from data.raw.input_scans import InputScan, check_image, check_slices, read_scan, to_label_map, to_scan
from tests.data.dicom_series import write_series
from util.errors import UserError
from util.io.image_io import Geometry, to_sitk, write_volume
from util.io.itk_files import write_itk_volume

COSINE, SINE = np.cos(0.3), np.sin(0.3)
GRID = Geometry(
    (3, 4, 5), (2.5, 1.5, 0.5), (-10.0, 20.0, 7.5), (COSINE, -SINE, 0.0, SINE, COSINE, 0.0, 0.0, 0.0, 1.0)
)
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def _same(scan):
    return np.array_equal(scan.voxels, VOXELS) and scan.geometry.same_grid(GRID, tolerance_mm=1e-4)


def test_every_format_gives_the_same_scan(tmp_path):
    write_volume(tmp_path / "a.nii.gz", VOXELS, GRID)
    write_itk_volume(tmp_path / "a.nrrd", VOXELS, GRID)
    write_itk_volume(tmp_path / "a.mha", VOXELS, GRID)
    paths = [tmp_path / name for name in ("a.nii.gz", "a.nrrd", "a.mha")]
    assert [_same(read_scan(path)) for path in paths] == [True] * 3
    assert read_scan(paths[0]).path == paths[0]


def test_images_in_memory_give_the_same_scan(tmp_path):
    write_volume(tmp_path / "a.nii.gz", VOXELS, GRID)
    sources = [to_sitk(VOXELS, GRID), nibabel.load(tmp_path / "a.nii.gz"), str(tmp_path / "a.nii.gz")]
    assert [_same(to_scan(source, name="image")) for source in sources] == [True] * 3


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble, ">i2", np.int64])
def test_nibabel_images_of_any_number_format_and_a_single_time_point_are_scans(dtype):
    affine = np.diag([1.5, 1.5, 5.0, 1.0])
    voxels = VOXELS.T.astype(dtype)
    for stored in (voxels, voxels[..., None]):
        scan = to_scan(nibabel.spatialimages.SpatialImage(stored, affine), name="image")
        assert np.array_equal(scan.voxels, VOXELS)
        assert scan.voxels.dtype.kind == voxels.dtype.kind
        assert scan.voxels.dtype.itemsize in (voxels.dtype.itemsize, np.dtype(np.float32).itemsize)


def test_an_array_with_spacing_is_lps():
    scan = to_scan((VOXELS, (2.0, 1.0, 1.0)), name="image")
    identity = Geometry((3, 4, 5), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))
    assert scan.geometry == identity
    assert to_scan((VOXELS > 3, (1, 1, 1)), name="mask").voxels.dtype == np.uint8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (VOXELS, "must be a path, a SimpleITK or nibabel image, or"),
        ((VOXELS, (1.0, 1.0)), "spacing must be three numbers"),
        ((VOXELS, None), "spacing must be three numbers"),
        ((VOXELS, (1.0, 1.0, 0.0)), "spacing must be 0.01 to 100 mm"),
        ((VOXELS[0], (1.0, 1.0, 1.0)), "must be a real array"),
        ((VOXELS * 1j, (1.0, 1.0, 1.0)), "must be a real array"),
        (sitk.GetImageFromArray(np.zeros((2, 2, 2, 3)), isVector=True), "3D image of single values"),
        (nibabel.Nifti1Image(np.zeros((2, 2, 2, 2), np.int16), np.eye(4)), "3D image of single values"),
    ],
)
def test_what_is_no_scan_is_refused_by_name(source, message):
    with pytest.raises(UserError, match=message) as caught:
        to_scan(source, name="image")
    assert str(caught.value).startswith("image: ")


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "a.nii").write_bytes(b"x")
    (tmp_path / "one.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "empty").mkdir()
    expected = {"a.jpg": "unknown format", "a.nii": "cannot be read", "one.dcm": "single DICOM file"}
    expected |= {"empty": "holds no DICOM file", "none.nii": "no such file"}
    for name, message in expected.items():
        with pytest.raises(UserError, match=message):
            read_scan(tmp_path / name)


def _damage(path, content):
    path.unlink(missing_ok=True)
    if content is None:
        path.symlink_to("none")
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("position", [99, 98, 97])
@pytest.mark.parametrize(
    ("content", "fault"), [(b"", "an empty one"), (b"damaged", "another format"), (None, "cannot be read")]
)
@pytest.mark.parametrize("name", ["{}.dcm", "IM00{}", "1.2.840.{}"])
def test_a_lost_slice_of_a_series_is_named_wherever_it_lies(tmp_path, position, content, fault, name):
    write_series(tmp_path, np.concatenate([VOXELS, VOXELS])[:5], GRID)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / name.format(path.stem))
    _damage(tmp_path / name.format(position), content)
    with pytest.raises(UserError) as caught:
        read_scan(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / name.format(position)}: must be DICOM, as the other slices are, ")
    assert fault in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["{}.dcm", "IM00{}"])
def test_other_files_in_the_folder_of_a_series_are_ignored(tmp_path, name):
    write_series(tmp_path, VOXELS, GRID)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / name.format(path.stem))
    names = (
        "DICOMDIR",
        "README",
        "notes.txt",
        "IM0001.json",
        ".DS_Store",
        f"._{name.format(96)}",
        "Thumbs.db",
    )
    for other in names:
        (tmp_path / other).write_bytes(b"")
    (tmp_path / name.format(7)).mkdir()
    assert _same(read_scan(tmp_path))


def test_images_and_masks_are_checked():
    with pytest.raises(UserError, match="at least 2 slices"):
        check_image(InputScan(VOXELS[:1], GRID, "scan"))
    assert to_label_map(InputScan(VOXELS.astype(np.float32), GRID, "mask")).dtype == np.uint16
    for voxels in (VOXELS / 2, VOXELS - 1, VOXELS + np.float32("nan")):
        with pytest.raises(UserError, match="mask: must hold label ids"):
            to_label_map(InputScan(voxels.astype(np.float32), GRID, "mask"))


def test_ranges_of_slices_lie_within_the_scan():
    scan = InputScan(VOXELS, GRID, "scan")
    ranges = [None, (1, None), (0, 2), (1, 99)]
    assert [check_slices(text, scan) for text in ranges] == [(0, 3), (1, 3), (0, 2), (1, 3)]
    for outside in ((3, None), (2, 2), (-1, 2)):
        with pytest.raises(UserError, match="slices="):
            check_slices(outside, scan)


@pytest.mark.parametrize("slices", ["3:5", "35", (0.0, 2.0), (0, 2.5), (1,), 1, ("0", "2"), (0, 1, 2)])
def test_invalid_ranges_of_slices_are_refused(slices):
    with pytest.raises(
        UserError, match=r"scan: slices must be None or a pair of whole numbers such as \(3, 5\)"
    ):
        check_slices(slices, InputScan(VOXELS, GRID, "scan"))


def test_the_hint_for_a_scan_without_orientation_can_be_followed_in_prediction(tmp_path):
    path = tmp_path / "a.nii"
    nibabel.Nifti1Image(VOXELS.T, None).to_filename(path)
    with pytest.raises(UserError) as caught:
        read_scan(path)
    reason = "orientation unknown (qform_code and sform_code are 0)"
    assert str(caught.value) == f"{path}: {reason}; set qform or sform in its header"
