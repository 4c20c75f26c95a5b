"""Cut, pad and turn a grid; every voxel stays at its place in the patient."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TypeVar

import numpy as np

from util.io.image_io import Geometry

# Each patient axis (x, y, z) with the letter of its negative and of its positive end: right to left, front
# (anterior) to back (posterior), feet (inferior) to head (superior).
_ENDS = ("RL", "AP", "IS")
_SAME_SPACING = 0.99  # share of the largest spacing from which on another one counts as large

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Turn:
    """How a grid's axes change places and directions.

    Attributes:
        order: the old axis at each new axis' place.
        flipped: whether the new axis runs against the old one.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]


def is_orientation(letters: str) -> bool:
    """Tell whether letters such as "LPS" name each patient axis once."""
    return sorted(_patient_axis(letter) for letter in letters) == [0, 1, 2]


def orientation(geometry: Geometry) -> str:
    """Name the end of the patient that each axis (x, y, z) runs to: "LPS".

    Of an oblique axis it is the end that it points to most; no patient axis is named twice.
    """
    letters = []
    for axis, patient_axis in enumerate(_nearest_patient_axes(geometry)):
        letters.append(_ENDS[patient_axis][int(geometry.axes[patient_axis, axis] > 0)])
    return "".join(reversed(letters))


def same_axes(geometry: Geometry, other: Geometry) -> bool:
    """Tell whether the axes of two grids run the same way, but for obliquity.

    They name the same ends of the patient, or each is nearest to the other's axis of the same place: two
    oblique scans at 44 and 46 degrees are alike although their nearest ends differ.
    """
    if orientation(geometry) == orientation(other):
        return True
    cosines = other.axes.T @ geometry.axes
    return _nearest_axes(cosines) == [0, 1, 2] and bool((np.diag(cosines) > 0).all())


def orient_like(geometry: Geometry, other: Geometry) -> str:
    """Name the orientation in which a grid's axes are nearest to another grid's."""
    if same_axes(geometry, other):
        return orientation(geometry)
    cosines = other.axes.T @ geometry.axes
    nearest = _nearest_axes(cosines)
    order = tuple(nearest.index(axis) for axis in range(3))
    flipped = tuple(bool(cosines[axis, old] < 0) for axis, old in enumerate(order))
    return orientation(turn_grid(geometry, Turn(order, flipped)))


def orient_like_most(geometries: Mapping[Key, Geometry]) -> dict[Key, str]:
    """Name the orientation of each grid in which all run as most of them do.

    Most grids keep theirs. Of equally common ones the first counts.
    """
    if not geometries:
        return {}
    grids = list(geometries.values())
    reference = max(grids, key=lambda grid: sum(same_axes(grid, other) for other in grids))
    return {name: orient_like(geometry, reference) for name, geometry in geometries.items()}


def slice_axis(geometry: Geometry) -> str:
    """Name the ends of the patient axis that slices are stacked along, such as "IS"."""
    return _ENDS[_nearest_patient_axes(geometry)[0]]


def orient_slices(geometry: Geometry, like: str = "LPS") -> str:
    """Name the orientation in which a grid keeps its slice axis.

    The slice axis is that of the largest spacing among those that leave square pixels (within 1 %), or among
    all if none does; of equally large ones the nearest to the last of `like`, then to the one before. In
    plane the axes run as near as they can to `like`, in its order.

    Returns:
        Three letters, the last of which is the slice axis: "LPS" for an axial scan, "LSP" for a coronal one.
    """
    end_of_axis = {_patient_axis(end): end for end in like}
    nearest = _nearest_patient_axes(geometry)
    spacing = np.array(geometry.spacing_mm)
    in_plane = [np.delete(spacing, axis) for axis in range(3)]
    stacked = [axis for axis in range(3) if in_plane[axis].min() >= _SAME_SPACING * in_plane[axis].max()]
    stacked = stacked or list(range(3))
    widest = max(spacing[axis] for axis in stacked)
    ends = [end_of_axis[nearest[axis]] for axis in stacked if spacing[axis] >= _SAME_SPACING * widest]
    last = max(ends, key=like.index)
    return like.replace(last, "") + last


def find_turn(geometry: Geometry, letters: str) -> Turn:
    """Find the turn after which `orientation` is `letters`.

    They must satisfy `is_orientation`.
    """
    nearest = _nearest_patient_axes(geometry)
    # Letters are in the order x, y, z, arrays in the order z, y, x.
    order = tuple(nearest.index(_patient_axis(letter)) for letter in reversed(letters))
    present = orientation(geometry)[::-1]
    flipped = tuple(present[old] != letter for old, letter in zip(order, reversed(letters), strict=True))
    return Turn(order, flipped)


def turn_volume(volume: np.ndarray, turn: Turn) -> np.ndarray:
    """Turn a volume `(Z, H, W)`; a view where nothing changes, else contiguous."""
    turned = volume.transpose(turn.order)
    return np.ascontiguousarray(np.flip(turned, [axis for axis in range(3) if turn.flipped[axis]]))


def turn_grid(geometry: Geometry, turn: Turn) -> Geometry:
    """Return the geometry of the turned volume."""
    order = list(turn.order)
    shape = tuple(geometry.shape[axis] for axis in order)
    # The new first voxel was the last one along each flipped axis.
    first = np.zeros(3)
    first[order] = [length - 1 if flip else 0 for length, flip in zip(shape, turn.flipped, strict=True)]
    turned = replace(
        geometry,
        shape=shape,
        spacing_mm=tuple(geometry.spacing_mm[axis] for axis in order),
        origin_mm=_place(geometry, first),
    )
    return turned.with_axes(geometry.axes[:, order] * np.where(turn.flipped, -1.0, 1.0))


def cut_volume(
    volume: np.ndarray, start: tuple[int, int, int], shape: tuple[int, int, int], *, fill: float
) -> np.ndarray:
    """Take a box out of a volume, or one that reaches beyond it.

    Args:
        volume: `(Z, H, W)`.
        start: the box's first voxel; may be negative.
        shape: of the box.
        fill: what stands outside the volume; a value of its dtype.

    Returns:
        A contiguous volume of this shape and the same dtype.
    """
    box = np.full(shape, fill, volume.dtype)
    spans = list(zip(start, shape, volume.shape, strict=True))
    inside = tuple(slice(max(first, 0), max(min(first + n, length), 0)) for first, n, length in spans)
    found = volume[inside]
    places = tuple(
        slice(max(-first, 0), max(-first, 0) + n) for first, n in zip(start, found.shape, strict=True)
    )
    box[places] = found
    return box


def cut_grid(geometry: Geometry, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Geometry:
    """Return the geometry of what `cut_volume` takes."""
    return replace(geometry, shape=tuple(shape), origin_mm=_place(geometry, start))


def _place(geometry: Geometry, index) -> tuple[float, float, float]:
    return tuple(float(mm) for mm in geometry.place_mm(index))


def _patient_axis(letter: str) -> int:
    """Return which patient axis a letter belongs to; -1 for no such letter."""
    return next((axis for axis, ends in enumerate(_ENDS) if letter in ends), -1)


def _nearest_patient_axes(geometry: Geometry) -> list[int]:
    """Return the patient axis that each array axis runs along most, each once."""
    return _nearest_axes(geometry.axes, (2, 1, 0))


def _nearest_axes(cosines: np.ndarray, first_choice: tuple[int, int, int] = (0, 1, 2)) -> list[int]:
    """Assign each column of direction cosines `(3, 3)` the row that it runs along most, each once."""
    share = np.abs(cosines)
    # A choice for all three at once: at 45 degrees two might claim the same row. Where two choices are equal
    # it is the first.
    choices = permutations(first_choice)
    return list(max(choices, key=lambda rows: sum(share[row, column] for column, row in enumerate(rows))))
