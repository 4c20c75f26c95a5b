"""Crop, pad and reorient volumes; every voxel keeps its position in the patient."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from itertools import permutations
from typing import TypeVar

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt2axcodes, ornt_transform

from util.io.image_io import Geometry

# Each patient axis (x, y, z) with the letters of its negative and positive end: right to left, anterior to
# posterior, inferior to superior. nibabel's default labels run the other way along x and y.
_ENDS = ("RL", "AP", "IS")
_MIN_EQUAL_SPACING = 0.99  # spacings within this factor of the largest count as equal to it

Key = TypeVar("Key", bound=Hashable)


def is_orientation(letters: str) -> bool:
    """Return whether letters such as "LPS" name each patient axis once."""
    return sorted(_patient_axis(letter) for letter in letters) == [0, 1, 2]


def orientation(geometry: Geometry) -> str:
    """Return the axis codes (x, y, z) of a grid, such as "LPS".

    Each letter is the end of the patient that the axis points to; an oblique axis has the nearest one, but no
    patient axis is named twice.
    """
    return "".join(ornt2axcodes(_array_orientation(geometry), _ENDS))[::-1]


def same_axes(geometry: Geometry, other: Geometry) -> bool:
    """Return whether the axes of two grids correspond, apart from obliquity.

    They have the same orientation, or each axis is nearest to the corresponding one of the other grid:
    oblique scans at 44 and 46 degrees correspond although their nearest patient axes differ.
    """
    if orientation(geometry) == orientation(other):
        return True
    return np.array_equal(find_reorientation_like(geometry, other), [[0, 1], [1, 1], [2, 1]])


def orient_like(geometry: Geometry, other: Geometry) -> str:
    """Return the orientation in which a grid's axes are nearest to another grid's."""
    if same_axes(geometry, other):
        return orientation(geometry)
    return orientation(reorient_grid(geometry, find_reorientation_like(geometry, other)))


def orient_like_majority(geometries: Mapping[Key, Geometry]) -> dict[Key, str]:
    """Return the orientations in which all grids have the axes of the majority.

    Grids of the majority keep their orientation. In a tie the first grid decides.
    """
    if not geometries:
        return {}
    grids = list(geometries.values())
    reference = max(grids, key=lambda grid: sum(same_axes(grid, other) for other in grids))
    return {name: orient_like(geometry, reference) for name, geometry in geometries.items()}


def slice_axis(geometry: Geometry) -> str:
    """Return the ends of the patient axis that slices are stacked along: "IS"."""
    return _ENDS[_array_orientation(geometry)[0, 0]]


def orient_slices(geometry: Geometry) -> str:
    """Return the orientation that keeps a grid's slice axis last.

    The slice axis is that of the largest spacing among those that leave square pixels (within 1 %), or among
    all if none does; in a tie, the axis nearest to S, then to P. The in-plane axes follow the order and
    directions of "LPS".

    Returns:
        Three letters, the last of which is the slice axis: "LPS" for an axial scan, "LSP" for a coronal one.
    """
    end_of_axis = {_patient_axis(end): end for end in "LPS"}
    nearest = _array_orientation(geometry)[:, 0]
    spacing = np.array(geometry.spacing_mm)
    in_plane = [np.delete(spacing, axis) for axis in range(3)]
    square = [axis for axis in range(3) if in_plane[axis].min() >= _MIN_EQUAL_SPACING * in_plane[axis].max()]
    square = square or list(range(3))
    widest = max(spacing[axis] for axis in square)
    ends = [end_of_axis[nearest[axis]] for axis in square if spacing[axis] >= _MIN_EQUAL_SPACING * widest]
    last = max(ends, key="LPS".index)
    return "LPS".replace(last, "") + last


def find_reorientation(geometry: Geometry, letters: str) -> np.ndarray:
    """Return the nibabel orientation transform `(3, 2)` of a volume to axis codes.

    `letters` must satisfy `is_orientation`.
    """
    # Letters are in the order x, y, z, arrays in the order z, y, x.
    return ornt_transform(_array_orientation(geometry), axcodes2ornt(letters[::-1], _ENDS))


def find_reorientation_like(geometry: Geometry, other: Geometry) -> np.ndarray:
    """Return the nibabel orientation transform `(3, 2)` to another grid's axes."""
    return _nearest_orientation(other.axes.T @ geometry.axes)


def reorient_volume(volume: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Swap and flip axes of a volume; a view if nothing changes, else contiguous."""
    return np.ascontiguousarray(apply_orientation(volume, transform))


def reorient_grid(geometry: Geometry, transform: np.ndarray) -> Geometry:
    """Return the geometry of the reoriented volume."""
    order = np.argsort(transform[:, 0])
    is_flipped = transform[order, 1] < 0
    shape = tuple(geometry.shape[axis] for axis in order)
    # The new first voxel was the last one along each flipped axis.
    first = np.zeros(3)
    first[order] = np.where(is_flipped, np.array(shape) - 1, 0)
    reoriented = replace(
        geometry,
        shape=shape,
        spacing_mm=tuple(geometry.spacing_mm[axis] for axis in order),
        origin_mm=tuple(geometry.position_mm(first).tolist()),
    )
    return reoriented.with_axes(geometry.axes[:, order] * np.where(is_flipped, -1.0, 1.0))


def reorient_to_grid(volume: np.ndarray, geometry: Geometry, grid: Geometry) -> tuple[np.ndarray, Geometry]:
    """Swap and flip a volume's axes if its voxels are then those of another grid.

    Returns:
        The volume and its geometry, both unchanged if the volume lies elsewhere or needs resampling.
    """
    turn = find_reorientation_like(geometry, grid)
    reoriented = reorient_grid(geometry, turn)
    if not reoriented.same_grid(grid):
        return volume, geometry
    return reorient_volume(volume, turn), reoriented


def crop_volume(
    volume: np.ndarray, start: tuple[int, int, int], shape: tuple[int, int, int], *, fill: float
) -> np.ndarray:
    """Crop a volume to a box, padding it where the box reaches beyond the volume.

    Args:
        volume: `(Z, H, W)`.
        start: first voxel of the box; may be negative.
        shape: of the box.
        fill: padding; a value of the volume's dtype.

    Returns:
        A contiguous volume of this shape and the same dtype.
    """
    box = np.full(shape, fill, volume.dtype)
    spans = list(zip(start, shape, volume.shape, strict=True))
    inside = volume[tuple(slice(max(first, 0), max(min(first + n, length), 0)) for first, n, length in spans)]
    offsets = [max(-first, 0) for first in start]
    box[tuple(slice(offset, offset + n) for offset, n in zip(offsets, inside.shape, strict=True))] = inside
    return box


def crop_grid(geometry: Geometry, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Geometry:
    """Return the geometry of the volume that `crop_volume` returns."""
    return replace(geometry, shape=tuple(shape), origin_mm=tuple(geometry.position_mm(start).tolist()))


def _patient_axis(letter: str) -> int:
    """Return the patient axis of a letter; -1 if unknown."""
    return next((axis for axis, ends in enumerate(_ENDS) if letter in ends), -1)


def _array_orientation(geometry: Geometry) -> np.ndarray:
    """Return the nibabel orientation `(3, 2)` of the array axes (z, y, x)."""
    return _nearest_orientation(geometry.axes, (2, 1, 0))


def _nearest_orientation(cosines: np.ndarray, first_choice: tuple[int, int, int] = (0, 1, 2)) -> np.ndarray:
    """Assign each column of direction cosines `(3, 3)` the row it is nearest to, each once, and its sign."""
    share = np.abs(cosines)
    # All three are chosen jointly: at 45 degrees two columns might claim the same row. Ties go to the first
    # choice.
    choices = permutations(first_choice)
    rows = max(choices, key=lambda rows: sum(share[row, column] for column, row in enumerate(rows)))
    return np.stack([rows, np.where(cosines[rows, range(3)] > 0, 1, -1)], axis=1)
