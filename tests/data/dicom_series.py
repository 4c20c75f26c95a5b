"""Write volumes as DICOM series, and compare points in the patient."""

import numpy as np
from scipy.spatial import cKDTree

from tests.data.raw.raw_sets import write_slice

STUDY_UID, FRAME_OF_REFERENCE_UID = "1.2.826.0.1", "1.2.826.0.1.9"


def write_series(folder, voxels, geometry, *, tags=()):
    """Write slices along the first axis; the files' names, 99.dcm, 98.dcm, ..., run against their order."""
    across, down, _ = geometry.axes[:, ::-1].T
    for number, pixels in enumerate(voxels):
        write_slice(
            folder / f"{99 - number}.dcm",
            pixels,
            position_mm=geometry.position_mm((number, 0, 0)),
            orientation=(*across, *down),
            spacing_mm=geometry.spacing_mm,
            tags=[("0020|0052", FRAME_OF_REFERENCE_UID), *tags],
        )


def assert_same_points(actual_mm, expected_mm):
    """Require two sets of points `(n, 3)` to be the same within rounding of a header's numbers."""
    assert len(actual_mm) == len(expected_mm) > 0
    distances_mm, neighbours = cKDTree(expected_mm).query(actual_mm)
    assert distances_mm.max() < 1e-3
    assert len(np.unique(neighbours)) == len(expected_mm)
