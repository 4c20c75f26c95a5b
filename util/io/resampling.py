"""Bring volumes to other grids."""

from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from util.errors import UserError
from util.io.image_io import Geometry, to_sitk

# Restored samples move this part of the way from their own place to the nearest voxel of the original; see
# `restore_on_grid`. Half to two thirds gave the best masks of balls over slices of 1 to 9 mm.
_DRAWN_TO_VOXEL = 0.6
# Axes of two grids are parallel when each is this near (sine of the angle) to a right angle with the others.
_PARALLEL = 0.02
# Of a step: nearer than this counts as less than a step, whatever rounding says.
_LESS_THAN_A_STEP = 0.999


def resample_linear(volume: np.ndarray, geometry: Geometry, target: Geometry, *, fill: float) -> np.ndarray:
    """Resample a volume linearly, exactly as SimpleITK's `Resample` does.

    Args:
        volume: `(Z, H, W)`, any real dtype.
        geometry: of it.
        target: the grid to resample to.
        fill: for samples further outside the volume than half a voxel; nearer ones take its edge's value.

    Returns:
        The samples, float32 of the target's shape.
    """
    # Only size and place count of the reference.
    reference = to_sitk(np.empty(target.shape, np.uint8), target)
    source = to_sitk(volume, geometry)
    samples = sitk.Resample(
        source, reference, sitk.Transform(), sitk.sitkLinear, float(fill), sitk.sitkFloat32
    )
    return sitk.GetArrayFromImage(samples)


def resample_label_map(
    label_map: np.ndarray, geometry: Geometry, target: Geometry, *, labels: Iterable[int]
) -> np.ndarray:
    """Resample a label map one label at a time.

    Each one's indicator is resampled linearly, then rounded: a voxel gets the label whose share there is at
    least 1/2. Two labels reach it only where each has half; the larger share wins (they differ by rounding at
    most), and the smaller id where they are equal.

    Args:
        label_map: `(Z, H, W)`, whole numbers 0..255.
        geometry: of it.
        target: the grid to resample to; 0 outside the label map.
        labels: the ids to keep; others become 0.

    Returns:
        The label map, uint8 of the target's shape.
    """
    resampled = np.zeros(target.shape, np.uint8)
    largest = np.zeros(target.shape, np.float32)
    present = np.flatnonzero(np.bincount(label_map.ravel(), minlength=1))
    for label in sorted(set(labels) & set(present.tolist())):
        share = resample_linear((label_map == label).astype(np.uint8), geometry, target, fill=0.0)
        wins = (share >= 0.5) & (share > largest)
        resampled[wins] = label
        largest[wins] = share[wins]
    return resampled


def restore_on_grid(mask: np.ndarray, geometry: Geometry, target: Geometry) -> np.ndarray:
    """Bring a mask back to the grid that its scan was resampled from.

    A rounded mask on coarse slices tells no more than which slices an organ reaches; linear interpolation of
    it repeats each slice, and the outline becomes steps. Instead the signed distance to the outline is
    interpolated (Raya and Udupa, IEEE Transactions on Medical Imaging 9, 1990), and its zero is the new
    outline. Samples are drawn towards the nearest voxel of the original, because rounding made each of them a
    copy of that voxel rather than a mean at their own place.

    Args:
        mask: `(Z, H, W)`, bool or whole numbers (not 0 = inside); or floats, probabilities, which are
            interpolated as they are and cut at 1/2.
        geometry: of it.
        target: the original grid. Its axes may be in another order and run the other way.

    Returns:
        The mask, bool of the target's shape; False further outside the mask's grid than its own spacing.

    Raises:
        UserError: the two grids' axes are not parallel.
    """
    restored = np.zeros(target.shape, bool)
    axis_of, scales, offsets = _align(geometry, target)
    is_probability = np.issubdtype(mask.dtype, np.floating)
    inside = mask >= 0.5 if is_probability else mask != 0
    if not inside.any():
        return restored
    box = tuple(_span(inside, axis) for axis in range(3))
    field = mask[box] - 0.5 if is_probability else _signed_distance_mm(inside[box], geometry.spacing_mm)
    block = []
    for axis in range(3):
        places = offsets[axis] + scales[axis] * np.arange(box[axis].start, box[axis].stop)
        if scales[axis] < 0:
            places, field = places[::-1], np.flip(field, axis)
        reached = _reached(places, abs(scales[axis]), target.shape[axis_of[axis]])
        field = _interpolate(field, places, axis=axis, at=reached)
        block.append(slice(reached[0], reached[-1] + 1) if len(reached) else slice(0, 0))
    where = tuple(block[axis_of.index(axis)] for axis in range(3))
    restored[where] = (field >= 0).transpose([axis_of.index(axis) for axis in range(3)])
    return restored


def _align(geometry: Geometry, target: Geometry) -> tuple[list[int], list[float], list[float]]:
    """Return, for each axis of a grid, the target's axis along it, and its first place and steps there."""
    first = target.index_at(geometry.place_mm((0, 0, 0)))
    cosines = target.axes.T @ geometry.axes
    axis_of = np.abs(cosines).argmax(axis=0).tolist()
    others = np.sort(np.abs(cosines), axis=0)[:2]
    if sorted(axis_of) != [0, 1, 2] or others.max() > _PARALLEL:
        raise UserError(
            "the mask's grid is turned against the original grid; "
            "give the geometry of the scan that it was made from"
        )
    steps = [
        geometry.spacing_mm[axis] / target.spacing_mm[other] * np.sign(cosines[other, axis])
        for axis, other in enumerate(axis_of)
    ]
    return axis_of, [float(step) for step in steps], [float(first[other]) for other in axis_of]


def _span(inside: np.ndarray, axis: int) -> slice:
    """Return the span of the mask along an axis and one sample more at either end."""
    found = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
    return slice(max(int(found[0]) - 1, 0), min(int(found[-1]) + 2, inside.shape[axis]))


def _signed_distance_mm(inside: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the distance to the nearest voxel of the other kind, negative outside."""
    if inside.all():
        return np.ones(inside.shape)
    within = distance_transform_edt(inside, sampling=spacing_mm)
    return within - distance_transform_edt(~inside, sampling=spacing_mm)


def _reached(places: np.ndarray, step: float, length: int) -> np.ndarray:
    """Return the voxels of the original that samples at `places` speak for.

    A coarse grid's last sample may lie almost one of its steps before the original's end.
    """
    voxels = np.arange(length)
    reach = _LESS_THAN_A_STEP * step
    return voxels[(voxels > places[0] - reach) & (voxels < places[-1] + reach)]


def _interpolate(field: np.ndarray, places: np.ndarray, *, axis: int, at: np.ndarray) -> np.ndarray:
    """Interpolate linearly along an axis; beyond the first and last place the field stays as it is there."""
    places = places + _DRAWN_TO_VOXEL * (np.floor(places + 0.5) - places)
    position = np.interp(at, places, np.arange(len(places)))
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, len(places) - 1)
    share = np.expand_dims(position - below, tuple({0, 1, 2} - {axis}))
    return np.take(field, below, axis) * (1 - share) + np.take(field, above, axis) * share
