"""Label maps of other axes than their image's are read without loss, and those that lie elsewhere refused."""

from dataclasses import replace

import numpy as np
import pytest

from data.raw.finding import find_raw
from tests.data.raw.raw_sets import WRITERS, write_custom_numbered, write_nifti
from tests.oriented_scans import ORIENTATIONS
from util.errors import UserError
from util.io.grids import find_reorientation, reorient_grid, reorient_volume
from util.io.image_io import read_raw_volume


def _reorient_labels(written, letters, **changes):
    """Write a scan's label file again with other axes; return its stored shape."""
    [path] = written.label_files
    voxels, geometry = read_raw_volume(path)
    turn = find_reorientation(geometry, letters)
    reoriented = reorient_grid(geometry, turn)
    write_nifti(path, reorient_volume(voxels, turn), replace(reoriented, **changes))
    return reoriented.shape


@pytest.mark.parametrize("dataset", ["SABS", "CMR", "Hips"])
def test_a_label_map_with_its_axes_in_any_order_and_direction_is_read_without_loss(tmp_path, dataset):
    written = WRITERS[dataset](tmp_path)  # those of CMR and all but the first of Hips are oblique
    shapes = set()
    for scan, letters in zip(written, ["RAI", "SPL", "PSR", "ILA", "ASL"], strict=True):
        shapes.add(_reorient_labels(scan, letters))
    assert len(shapes) > 1
    found = find_raw(dataset, tmp_path)
    for scan, expected in zip(found.scans, written, strict=True):
        volume, problems = found.inspect(scan)
        assert problems == []
        assert volume.geometry.same_grid(expected.geometry)
        assert np.array_equal(volume.image, expected.image)
        assert np.array_equal(volume.label_map, expected.label_map)


@pytest.mark.parametrize("letters", ORIENTATIONS[::5])
def test_a_label_map_that_lies_elsewhere_is_refused_as_it_is_stored(tmp_path, letters):
    written = write_custom_numbered(tmp_path, n_scans=2)
    shape = _reorient_labels(written[1], letters, origin_mm=(-30.5, -41.25, 13.0))
    found = find_raw("Hips", tmp_path)
    with pytest.raises(UserError, match=r"label_5\.nii\.gz: must lie on the grid of image_5") as caught:
        found.read(found.scans[1])
    line = str(caught.value)
    assert "origin (x, y, z) mm (-30.5, -41.25, 13.0) differs from (-30.5, -41.25, 12.0)" in line
    assert (f"shape {shape} differs" in line) == (shape != (6, 44, 40))
    assert line.endswith("resample the labels, or fix the header if they were drawn on this image")


def test_a_label_map_of_an_unreadable_image_is_still_checked(tmp_path):
    written = write_custom_numbered(tmp_path, n_scans=2)
    written[1].image_files[0].write_bytes(b"")
    voxels = np.full(written[1].label_map.shape, 7, np.uint8)
    write_nifti(written[1].label_files[0], voxels, written[1].geometry)
    found = find_raw("Hips", tmp_path)
    volume, problems = found.inspect(found.scans[1])
    assert volume is None
    assert ["image_5.nii.gz" in line for line in problems] == [True, False]
    assert "label_5.nii.gz: label values must be among" in problems[1]
