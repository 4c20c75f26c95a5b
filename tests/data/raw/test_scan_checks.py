"""What must hold of images, grids and labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.datasets import find_spec
from data.raw.scan_checks import (
    fold_remarks,
    grid_problems,
    image_problems,
    organ_problems,
)
from tests.data.raw.raw_sets import nifti_geometry

PLACE = Path("scan.nii.gz")
GRID = nifti_geometry((3, 4, 5), (6.0, 1.5, 1.25))


def test_an_image_needs_slices_finite_voxels_and_a_difference():
    good = np.arange(8.0).reshape(2, 2, 2)
    assert image_problems(PLACE, good) == []
    assert image_problems(PLACE, good.astype(np.int16)) == []
    assert "at least 2 slices" in image_problems(PLACE, good[:1])[0]
    assert "all are 3" in image_problems(PLACE, np.full((2, 2, 2), 3))[0]
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[1, 1] = value
        assert "got 2 NaN or infinite" in image_problems(PLACE, bad)[0]


def test_all_differences_of_two_grids_are_named():
    moved = replace(GRID, origin_mm=(0.0, 0.0, 0.0), shape=(4, 4, 5))
    (line,) = grid_problems(Path("label.nii.gz"), moved, image_file=PLACE, image=GRID)
    assert line.startswith(
        "label.nii.gz: must lie on the grid of scan.nii.gz, shape (4, 4, 5) differs from (3, 4, 5)"
    )
    assert "and origin (x, y, z) mm (0.0, 0.0, 0.0) differs from (-30.5, -41.25, 12.0);" in line
    assert "spacing" not in line
    assert "direction" not in line


def test_grids_that_differ_by_rounding_are_one():
    near = replace(GRID, origin_mm=(-30.504, -41.25, 12.0), spacing_mm=(6.0, 1.5004, 1.25))
    assert grid_problems(PLACE, near, image_file=PLACE, image=GRID) == []


def test_one_test_organ_is_enough():
    spec = find_spec("SABS")
    label_map = np.zeros((2, 2, 2), np.uint8)
    label_map[0, 0, 0] = 13
    assert "got 13;" in organ_problems(PLACE, label_map, spec)[0]
    label_map[1, 1, 1] = 6
    assert organ_problems(PLACE, label_map, spec) == []


def test_five_scans_make_five_folds():
    assert fold_remarks(5) == []
    assert "5 folds need at least 5" in fold_remarks(4)[0]
