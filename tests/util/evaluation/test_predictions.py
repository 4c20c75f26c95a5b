"""Predictions are written on the full grid of their scan."""

import numpy as np
import pytest

from util.errors import UserError
from util.evaluation.predictions import PredictionWriter
from util.io.image_io import Geometry, read_volume

GEOMETRY = Geometry((5, 2, 3), (7.7, 1.25, 1.5), (1.0, -2.0, 3.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))


def _add(writer, *, label, organ, slices, probabilities, scan_id=7):
    writer.add(
        scan_id,
        GEOMETRY,
        label=label,
        organ=organ,
        slices=np.array(slices, dtype=int),
        probabilities=np.array(probabilities, dtype=np.float32).reshape(-1, 2, 3),
    )


def test_a_mask_has_the_full_grid_with_empty_slices_where_nothing_was_segmented(tmp_path):
    writer = PredictionWriter(tmp_path / "chunks")
    # Exactly 1/2 is not predicted.
    rows = [[0.9, 0.5, 0.51, 0.1, 0.49, 1.0], [0.0, 0.6, 0.0, 0.0, 0.0, 0.0]]
    _add(writer, label=2, organ="right kidney", slices=[1, 3], probabilities=rows)
    mask, geometry = read_volume(tmp_path / "chunks" / "scan_7_right_kidney.nii.gz")
    expected = np.zeros((5, 2, 3))
    expected[1] = [[1, 0, 1], [0, 0, 1]]
    expected[3] = [[0, 1, 0], [0, 0, 0]]
    assert np.array_equal(mask, expected)
    assert mask.dtype == np.uint8
    assert geometry.same_grid(GEOMETRY)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_more_probable_organ_wins_where_two_overlap(tmp_path, order):
    organs = [
        {
            "label": 1,
            "organ": "liver",
            "slices": [1, 2],
            "probabilities": [[0.9, 0.6, 0.8, 0.2, 0.7, 0.4]] * 2,
        },
        {
            "label": 4,
            "organ": "spleen",
            "slices": [2, 3],
            "probabilities": [[0.7, 0.9, 0.3, 0.8, 0.4, 0.1]] * 2,
        },
    ]
    writer = PredictionWriter(tmp_path)
    for position in order:
        _add(writer, **organs[position])
    writer.write_label_maps()
    label_map, geometry = read_volume(tmp_path / "scan_7.nii.gz")
    expected = np.zeros((5, 2, 3))
    expected[1] = [[1, 1, 1], [0, 1, 0]]
    expected[2] = [[1, 4, 1], [4, 1, 0]]  # the spleen's 0.9 beats 0.6, its 0.7 does not beat 0.9
    expected[3] = [[4, 4, 0], [4, 0, 0]]
    assert np.array_equal(label_map, expected)
    assert geometry.same_grid(GEOMETRY)


def test_scans_are_kept_apart(tmp_path):
    writer = PredictionWriter(tmp_path)
    _add(writer, scan_id=3, label=1, organ="liver", slices=[0], probabilities=[0.9] * 6)
    _add(writer, scan_id=12, label=4, organ="spleen", slices=[4], probabilities=[0.9] * 6)
    writer.write_label_maps()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "scan_12.nii.gz",
        "scan_12_spleen.nii.gz",
        "scan_3.nii.gz",
        "scan_3_liver.nii.gz",
    ]
    assert np.array_equal(np.unique(read_volume(tmp_path / "scan_3.nii.gz")[0]), [0, 1])
    assert np.array_equal(np.unique(read_volume(tmp_path / "scan_12.nii.gz")[0]), [0, 4])


def test_an_organ_found_nowhere_leaves_an_empty_file(tmp_path):
    writer = PredictionWriter(tmp_path)
    _add(writer, label=1, organ="liver", slices=[0, 1], probabilities=[0.1] * 12)
    writer.write_label_maps()
    for name in ("scan_7_liver.nii.gz", "scan_7.nii.gz"):
        volume, geometry = read_volume(tmp_path / name)
        assert not volume.any()
        assert volume.shape == geometry.shape == (5, 2, 3)


def test_probabilities_are_unchanged(tmp_path):
    probabilities = np.full((1, 2, 3), 0.9, dtype=np.float32)
    writer = PredictionWriter(tmp_path)
    writer.add(7, GEOMETRY, label=1, organ="liver", slices=np.array([2]), probabilities=probabilities)
    writer.write_label_maps()
    assert (probabilities == np.float32(0.9)).all()


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        _add(PredictionWriter(tmp_path / "file"), label=1, organ="liver", slices=[0], probabilities=[0.9] * 6)
