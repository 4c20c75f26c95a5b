"""Slices are chosen by hand-countable areas, and shown in radiological convention from any orientation."""

import numpy as np
import pytest

from tests.oriented_scans import ORIENTATIONS, is_bright, l_scan, lps_grid
from util.evaluation.prediction_pictures import MAX_PICTURES, picture_scan


def _picture(label_map, labels, shape=None):
    grid = lps_grid(label_map.shape)
    return picture_scan(np.zeros(shape or label_map.shape), label_map, grid, labels=labels)


def test_each_label_is_shown_in_its_largest_section():
    label_map = np.zeros((9, 8, 8), np.uint8)
    label_map[1, 2:4, 2:4], label_map[2, 2:3, 2:3] = 1, 1
    label_map[6, 2:5, 3:6], label_map[5, 5, 5] = 7, 7
    result = _picture(label_map, (1, 4, 7))
    assert [(entry.slice_idx, set(entry.outlines)) for entry in result.slices] == [(1, {1}), (6, {7})]
    assert result.main == 1
    assert result.slices[1].outlines[7].count("M") == 1


def test_the_largest_labels_are_shown_and_the_middle_slice_if_none_is_present():
    label_map = np.zeros((12, 8, 8), np.uint8)
    for label in range(1, MAX_PICTURES + 3):
        label_map[label, :label, 0] = label
    result = _picture(label_map, range(1, MAX_PICTURES + 3))
    assert [entry.slice_idx for entry in result.slices] == list(range(3, MAX_PICTURES + 3))
    empty = _picture(np.zeros((9, 8, 6), np.uint8), (1,), shape=(9, 4, 3))
    assert [(entry.slice_idx, entry.outlines, entry.size_px) for entry in empty.slices] == [(4, {}, (8, 6))]
    assert empty.slices[0].window == (0, 0, 6, 8)


@pytest.mark.parametrize("is_oblique", [False, True])
def test_all_48_orientations_give_one_picture_with_the_patients_right_at_the_left(is_oblique):
    pictures = []
    for letters in ORIENTATIONS:
        scan = l_scan(letters, is_oblique=is_oblique)
        mask = is_bright(scan).astype(np.uint8)
        pictures.append(picture_scan(scan.voxels, mask, scan.geometry, labels=[1]))
    shown = {(picture.slices[0].outlines[1], picture.slices[0].spacing_mm) for picture in pictures}
    assert len(shown) == 1
    assert {picture.slices[0].slice_idx for picture in pictures} == {
        3,
        7,
    }  # the first of 3 and 4, from either end
    # The long arm of the L points to the patient's left, from x = 7 to 27.
    assert "27" in pictures[0].slices[0].outlines[1]
