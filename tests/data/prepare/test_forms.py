"""The command turns each form of a download into the voxels and places that its definition gives.

Every prepared voxel is followed through the patient to the numbers that were written into the raw files, by
formulas that are spelled out here and share nothing with the code.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from data.prepare.__main__ import main
from tests.data.raw.raw_sets import WRITERS, write_custom_numbered, write_nifti
from util.io.image_io import Geometry, read_volume

CLOSE = 1e-3  # of a voxel or a share: nearer to a border, rounding decides


@dataclass(frozen=True)
class Form:
    """What a form's preparation is defined to be."""

    folder: str
    write: object
    spacing_mm: tuple | None
    size_px: tuple | None


FORMS = {
    "CHAOST2": Form("chaos_MR_T2_normalized", WRITERS["CHAOST2"], (7.7, 1.25, 1.25), (256, 256)),
    "SABS": Form("sabs_CT_normalized", WRITERS["SABS"], None, None),
    "CMR": Form("cmr_MR_normalized", WRITERS["CMR"], (7.99, 1.25, 1.25), (256, 256)),
    "Hips in nnU-Net's folders": Form("volumes", WRITERS["Hips"], (4.0, 2.0, 2.0), (48, 48)),
    "Hips by numbers": Form("volumes", write_custom_numbered, (4.0, 2.0, 2.0), (48, 48)),
}


def axes_of(geometry):
    """Steps of one voxel along z, y and x in the patient, as columns `(x, y, z)` in mm."""
    directions = np.reshape(geometry.direction, (3, 3))[:, ::-1]  # the columns belong to x, y, z
    return directions * np.array(geometry.spacing_mm)


def positions_mm(geometry, indices):
    """Return the positions `(x, y, z)` of voxels `(n, 3)`, z, y and x, as DICOM and NIfTI define them."""
    return np.array(geometry.origin_mm) + np.asarray(indices) @ axes_of(geometry).T


def indices_at(geometry, positions):
    """Return the voxels, not whole ones, at positions in the patient."""
    return (positions - np.array(geometry.origin_mm)) @ np.linalg.inv(axes_of(geometry)).T


def changed_raw(name, scan):
    """Give a scan's image after windowing and cutting, its label map, and the first voxel that is left."""
    if not name.startswith("SABS"):
        return np.minimum(scan.image, np.percentile(scan.image, 99.5)), scan.label_map, (0, 0, 0)
    windowed = (np.clip(scan.image, -125.0, 275.0) + 125.0) / 400.0 * 255.0
    return windowed[:, 32:-32, 32:-32], scan.label_map[:, 32:-32, 32:-32], (0, 32, 32)


def compare_voxels(name, scan, *, image, label_map, geometry):
    raw, raw_labels, first = changed_raw(name, scan)
    voxels = np.indices(image.shape).reshape(3, -1).T
    at = indices_at(scan.geometry, positions_mm(geometry, voxels)) - first
    beyond = np.maximum(-at, at - (np.array(raw.shape) - 1)).max(axis=1) - 0.5
    share = {
        label: map_coordinates((raw_labels == label).astype(float), at.T, order=1, mode="nearest")
        for label in np.unique(raw_labels)[1:]
    }
    expected = map_coordinates(raw.astype(float), at.T, order=1, mode="nearest")
    expected[beyond > 0] = raw.min()
    is_padded = (
        at.min(axis=1) < -CLOSE
    )  # the grid begins at the first voxel; what lies before it was not resampled
    expected[is_padded] = raw.min()
    sure = np.abs(beyond) > CLOSE
    np.testing.assert_allclose(image.ravel()[sure], expected[sure], atol=0.05)
    for label, inside in share.items():
        sure_of_label = sure & (np.abs(inside - 0.5) > CLOSE)
        result = label_map.ravel() == label
        expected_here = (inside > 0.5) & (beyond < 0) & ~is_padded
        np.testing.assert_array_equal(result[sure_of_label], expected_here[sure_of_label])
    assert set(np.unique(label_map)) == {0, *share}
    assert sure.mean() > 0.9
    assert (beyond < 0).mean() > 0.04


def compare_grid(name, scan, geometry, *, form):
    n_raw, raw_mm = np.array(scan.image.shape), np.array(scan.geometry.spacing_mm)
    if name == "SABS":
        expected = (n_raw[0], *(int(length / 1.75 + 1) for length in n_raw[1:] - 64))
        assert geometry.shape == expected
        np.testing.assert_allclose(geometry.spacing_mm, raw_mm * (1, 1.75, 1.75), rtol=1e-5)
        np.testing.assert_allclose(geometry.origin_mm, positions_mm(scan.geometry, (0, 32, 32)), atol=1e-3)
    else:
        assert geometry.shape[1:] == form.size_px
        np.testing.assert_allclose(geometry.spacing_mm, form.spacing_mm, rtol=1e-5)
        # As many slices as lie within the raw volume, from its first slice's place on.
        n_slices = np.ceil((n_raw[0] - 0.5) * raw_mm[0] / form.spacing_mm[0])
        assert geometry.shape[0] == n_slices
        middle = indices_at(scan.geometry, positions_mm(geometry, [0, *(np.array(form.size_px) / 2 - 0.5)]))
        assert middle[0] == pytest.approx(0, abs=1e-3)
        off_mm = (middle[1:] - (n_raw[1:] - 1) / 2) * raw_mm[1:]
        assert np.abs(off_mm).max() <= np.max([form.spacing_mm[1:], raw_mm[1:]])
    np.testing.assert_allclose(geometry.direction, scan.geometry.direction, atol=1e-5)


def along_lps(scan):
    """Swap and flip a scan's axes so that x, y and z run most to the left, the back and the head."""
    columns = np.reshape(scan.geometry.direction, (3, 3))  # of x, y, z
    image, label_map, spacing_mm = scan.image.T, scan.label_map.T, scan.geometry.spacing_mm[::-1]
    order = [int(np.abs(columns[patient_axis]).argmax()) for patient_axis in range(3)]
    flips = [bool(columns[patient_axis, axis] < 0) for patient_axis, axis in enumerate(order)]
    first = np.zeros(3)
    for axis, flip in zip(order, flips, strict=True):
        first[axis] = image.shape[axis] - 1 if flip else 0
    turned = [
        np.flip(volume.transpose(order), [axis for axis in range(3) if flips[axis]]).T
        for volume in (image, label_map)
    ]
    geometry = Geometry(
        shape=turned[0].shape,
        spacing_mm=tuple(spacing_mm[axis] for axis in order[::-1]),
        origin_mm=tuple(positions_mm(scan.geometry, first[::-1])),
        direction=tuple((columns[:, order] * np.where(flips, -1, 1)).ravel()),
    )
    return replace(scan, image=turned[0], label_map=turned[1], geometry=geometry)


@pytest.fixture(name="prepare", scope="module")
def _prepare(tmp_path_factory):
    """Write and prepare a form once, in one process; return its scans and the folder of `raw` and `out`."""
    result = {}

    def prepare(name):
        if name not in result:
            workspace = tmp_path_factory.mktemp("form")
            written = FORMS[name].write(workspace / "raw")
            words = [f"dataset={name.split()[0]}", f"raw={workspace}/raw", f"data_dir={workspace}/out"]
            assert main([*words, "num_workers=1"]) == 0
            result[name] = written, workspace
        return result[name]

    return prepare


@pytest.mark.parametrize("name", FORMS)
def test_a_form_has_the_defined_voxels_at_their_positions(name, prepare, capsys):
    form, dataset = FORMS[name], name.split()[0]
    written, workspace = prepare(name)
    assert capsys.readouterr().err == ""
    folder = workspace / "out" / form.folder
    assert sorted(int(path.name[6:-7]) for path in folder.glob("image_*")) == [s.scan_id for s in written]
    for scan in written:
        if dataset == "CHAOST2":  # whose scans are turned to LPS
            scan = along_lps(scan)
        image, geometry = read_volume(folder / f"image_{scan.scan_id}.nii.gz")
        label_map, label_geometry = read_volume(folder / f"label_{scan.scan_id}.nii.gz")
        assert (image.dtype, label_map.dtype) == (np.float32, np.uint8)
        assert label_geometry.same_grid(geometry)
        compare_voxels(name, scan, image=image, label_map=label_map, geometry=geometry)
        compare_grid(name, scan, geometry, form=form)


def test_custom_datasets_of_another_orientation_are_reoriented_and_keep_their_positions(tmp_path):
    # Rows run to the head, columns to the front, slices to the right; a little oblique.
    tilt = np.array([[1, 0, 0], [0, np.cos(0.1), -np.sin(0.1)], [0, np.sin(0.1), np.cos(0.1)]])
    direction = tilt @ np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]])
    written = []
    # More than half of each raw spacing: what is padded then lies further outside than half a raw voxel.
    for scan in write_custom_numbered(
        tmp_path / "raw", n_scans=2, spacing_mm=[3.0, 3.0, 3.0], orientation="LPS"
    ):
        geometry = replace(scan.geometry, direction=tuple(direction.ravel().tolist()))
        write_nifti(scan.image_files[0], scan.image, geometry)
        write_nifti(scan.label_files[0], scan.label_map, geometry)
        written.append(replace(scan, geometry=geometry))
    words = [f"raw={tmp_path}/raw", f"data_dir={tmp_path}/out", "num_workers=1"]
    assert main(["dataset=Hips", *words]) == 0
    for scan in written:
        image, geometry = read_volume(tmp_path / f"out/volumes/image_{scan.scan_id}.nii.gz")
        label_map, _ = read_volume(tmp_path / f"out/volumes/label_{scan.scan_id}.nii.gz")
        compare_voxels("Hips", along_lps(scan), image=image, label_map=label_map, geometry=geometry)
        np.testing.assert_allclose(geometry.direction, tilt.ravel(), atol=1e-5)


def test_a_download_in_an_archive_is_prepared_by_several_processes_alike(tmp_path, prepare):
    _, workspace = prepare("CHAOST2")
    shutil.make_archive(str(tmp_path / "CHAOS"), "zip", workspace / "raw")
    words = [f"raw={tmp_path}/CHAOS.zip", f"data_dir={tmp_path}/out", "num_workers=2"]
    assert main(["with", "dataset=CHAOST2", *words]) == 0
    volumes = [
        {path.relative_to(data_dir): read_volume(path) for path in nifti_files(data_dir)}
        for data_dir in (workspace / "out", tmp_path / "out")
    ]
    assert len(volumes[0]) == 15
    assert volumes[0].keys() == volumes[1].keys()
    for path, (voxels, geometry) in volumes[0].items():
        np.testing.assert_array_equal(volumes[1][path][0], voxels)
        assert volumes[1][path][1] == geometry


def nifti_files(folder: Path):
    return sorted(folder.rglob("*.nii.gz"))
