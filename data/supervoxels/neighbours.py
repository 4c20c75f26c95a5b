"""Neighbour directions of a voxel and the weight factors of their edges."""

import math

import numpy as np

from util.errors import UserError

# Steps (z, y, x) to the 13 of the 26 neighbours that are later in raster order. Ties between edges of equal
# weight are broken by the order of directions here, then by raster order of the start voxel.
DIRECTIONS = ((0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, -1))  # within the slice
DIRECTIONS += ((1, 0, 0), (1, 0, 1), (1, 0, -1), (1, 1, 0), (1, -1, 0))  # to the next slice, faces and edges
DIRECTIONS += ((1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1))  # to the next slice, corners

IN_PLANE_TOLERANCE = 0.01


def weight_factors(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the weight factor of each direction, float32 `(13,)`.

    A step along m axes including z has the factor `sqrt((m - 1 + s^2) / m)`, its length relative to the same
    step on a cubic grid, where s is slice distance over pixel distance. In-plane steps have the factor 1.

    Raises:
        UserError: not three positive numbers, y and x differ by more than 1 percent, or z by more than a
            factor of 1000.
    """
    spacing = tuple(float(step) for step in spacing_mm)
    if len(spacing) != 3 or not all(0.0 < step < math.inf for step in spacing):
        raise UserError(f"spacing: must be three positive distances (z, y, x) in mm, got {spacing}")
    pixel_mm = (spacing[1] + spacing[2]) / 2
    if abs(spacing[1] - spacing[2]) > IN_PLANE_TOLERANCE * pixel_mm:
        raise UserError(
            f"spacing: pixels must be square within 1 percent, got {spacing[1]:g} x {spacing[2]:g} mm; "
            "resample the scan in plane"
        )
    ratio = spacing[0] / pixel_mm
    if not 1e-3 <= ratio <= 1e3:
        raise UserError(
            f"spacing: slice distance {spacing[0]:g} mm does not fit pixels of {pixel_mm:g} mm; fix the file"
        )
    n_axes = np.abs(DIRECTIONS).sum(axis=1)
    across = np.sqrt((n_axes - 1 + ratio**2) / n_axes)
    return np.where(np.array(DIRECTIONS)[:, 0] == 0, 1.0, across).astype(np.float32)
