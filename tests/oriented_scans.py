"""An L-shaped object in a scan of any of the 48 axis orientations, upright or oblique."""

from itertools import permutations, product

import numpy as np

from data.raw.input_scans import InputScan
from util.io.grids import find_reorientation, reorient_grid, reorient_volume
from util.io.image_io import Geometry

ORIENTATIONS = ["".join(letters) for ends in product("LR", "PA", "SI") for letters in permutations(ends)]
SPACING_MM = (5.0, 1.5, 1.5)
OBLIQUE_DEGREES = (18.0, -11.0)
BRIGHT = 100


def lps_grid(shape=(12, 30, 32), *, is_oblique=False, spacing_mm=SPACING_MM):
    """Return a grid whose axes are, or are nearest to, left, posterior and superior."""
    direction = np.eye(3)
    if is_oblique:
        tilt, turn = np.radians(OBLIQUE_DEGREES)
        about_x = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
        about_z = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
        direction = np.array(about_x) @ about_z
    return Geometry(shape, spacing_mm, (-30.0, 12.0, 55.0), tuple(direction.ravel().tolist()))


def l_scan(letters="LPS", **grid):
    """Return a scan of the object; its arms differ in length, so that no symmetry maps it to itself."""
    geometry = lps_grid(**grid)
    voxels = np.random.default_rng(0).integers(0, 10, geometry.shape).astype(np.int16)
    z, y, x = 3, 6, 7
    voxels[z : z + 6, y : y + 4, x : x + 4] = BRIGHT
    voxels[z : z + 2, y : y + 16, x : x + 4] = BRIGHT
    voxels[z : z + 2, y : y + 4, x : x + 20] = BRIGHT
    turn = find_reorientation(geometry, letters)
    return InputScan(reorient_volume(voxels, turn), reorient_grid(geometry, turn), f"L in {letters}")


def is_bright(scan):
    """Return the mask of the object on the scan's own grid."""
    return scan.voxels == BRIGHT
