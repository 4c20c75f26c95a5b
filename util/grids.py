"""Cut, pad and turn a grid; every voxel stays at its place in the patient."""

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from util.image_io import Geometry

# Each patient axis (x, y, z) with the letter of its negative and of its positive end: right to left, front
# (anterior) to back (posterior), feet (inferior) to head (superior).
_ENDS = ("RL", "AP", "IS")


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
    share = np.abs(geometry.axes)
    # A choice for all three at once: at 45 degrees two might claim the same patient axis. Where two choices
    # are equal it is the first, the order of an axial scan.
    choices = permutations((2, 1, 0))
    return list(max(choices, key=lambda rows: sum(share[row, axis] for axis, row in enumerate(rows))))
