"""Resample volumes and label maps, and restore masks on their original grid."""

from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from util.errors import UserError
from util.io.image_io import Geometry, to_sitk

# Samples are shifted by this fraction towards the nearest voxel of the original; see `restore_on_grid`.
# Half to two thirds gave the best masks of balls on slices of 1 to 9 mm.
_SHIFT_TO_VOXEL = 0.6
# Grids are parallel if each axis is perpendicular to the others' within this sine of the angle.
_MAX_SKEW = 0.02
# Fraction of a step that counts as less than one despite rounding.
_LESS_THAN_A_STEP = 0.999


def resample_linear(
    volume: np.ndarray,
    geometry: Geometry,
    target: Geometry,
    *,
    fill: float,
    transform: sitk.Transform | None = None,
) -> np.ndarray:
    """Resample a volume linearly with SimpleITK.

    Args:
        volume: `(Z, H, W)`, any real dtype.
        geometry: its grid.
        target: the grid to resample to.
        fill: for samples more than half a voxel outside the volume; nearer ones take the edge value.
        transform: maps positions in the target to positions in the volume; None keeps them.

    Returns:
        The samples, float32 of the target's shape.
    """
    # Only the grid of the reference is used.
    reference = to_sitk(np.empty(target.shape, np.uint8), target)
    source = to_sitk(volume, geometry)
    transform = transform or sitk.Transform()
    samples = sitk.Resample(source, reference, transform, sitk.sitkLinear, float(fill), sitk.sitkFloat32)
    return sitk.GetArrayFromImage(samples)


def resample_label_map(
    label_map: np.ndarray, geometry: Geometry, target: Geometry, *, labels: Iterable[int]
) -> np.ndarray:
    """Resample a label map label by label.

    The indicator of each label is resampled linearly; a voxel gets the label with a share of at least 1/2. If
    two labels have half each, the larger share wins (they differ by rounding), or the smaller id in a tie.

    Args:
        label_map: `(Z, H, W)`, integers 0..255.
        geometry: its grid.
        target: the grid to resample to; 0 outside the label map.
        labels: ids to keep; others become 0.

    Returns:
        The label map, uint8 of the target's shape.
    """
    resampled = np.zeros(target.shape, np.uint8)
    largest = np.full(target.shape, np.nextafter(np.float32(0.5), np.float32(0)))
    present = np.flatnonzero(np.bincount(label_map.ravel(), minlength=1))
    for label in sorted(set(labels) & set(present.tolist())):
        share = resample_linear((label_map == label).astype(np.uint8), geometry, target, fill=0.0)
        assign_label(resampled, label, share, largest)
    return resampled


def assign_label(label_map: np.ndarray, label: int, values: np.ndarray, largest: np.ndarray) -> None:
    """Give a label the voxels where its values exceed the largest so far.

    `label_map` and `largest` are updated in place.
    """
    wins = values > largest
    label_map[wins] = label
    largest[wins] = values[wins]


def restore_on_grid(mask: np.ndarray, geometry: Geometry, target: Geometry) -> np.ndarray:
    """Restore a mask on the grid that its scan was resampled from.

    Linear interpolation of a binary mask on coarse slices repeats slices and gives a stepped outline. Instead
    the signed distance to the outline is interpolated (Raya and Udupa, IEEE Transactions on Medical Imaging
    9, 1990); its zero level is the new outline. Samples are shifted towards the nearest voxel of the
    original, because rounding made each of them a copy of that voxel rather than an average at its position.

    Args:
        mask: `(Z, H, W)`, bool or integers (nonzero = inside); or float probabilities, which are interpolated
            directly and thresholded at 1/2.
        geometry: its grid.
        target: the original grid; its axes may be permuted and flipped.

    Returns:
        The mask, bool of the target's shape; False beyond one spacing outside the mask's grid.

    Raises:
        UserError: the axes of the two grids are not parallel.
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
        positions = offsets[axis] + scales[axis] * np.arange(box[axis].start, box[axis].stop)
        if scales[axis] < 0:
            positions, field = positions[::-1], np.flip(field, axis)
        covered = _covered_voxels(positions, abs(scales[axis]), target.shape[axis_of[axis]])
        field = _interpolate(field, positions, axis=axis, at=covered)
        block.append(slice(covered[0], covered[-1] + 1) if len(covered) else slice(0, 0))
    where = tuple(block[axis_of.index(axis)] for axis in range(3))
    restored[where] = (field >= 0).transpose([axis_of.index(axis) for axis in range(3)])
    return restored


def _align(geometry: Geometry, target: Geometry) -> tuple[list[int], list[float], list[float]]:
    """Return, for each axis of a grid, the parallel target axis, and its step and first position along it."""
    first = target.index_at(geometry.position_mm((0, 0, 0)))
    cosines = target.axes.T @ geometry.axes
    axis_of = np.abs(cosines).argmax(axis=0).tolist()
    off_axis = np.sort(np.abs(cosines), axis=0)[:2]
    if sorted(axis_of) != [0, 1, 2] or off_axis.max() > _MAX_SKEW:
        raise UserError(
            "the mask's grid is rotated relative to the original grid; give the geometry of the scan that it "
            "was made from"
        )
    steps = [
        geometry.spacing_mm[axis] / target.spacing_mm[target_axis] * np.sign(cosines[target_axis, axis])
        for axis, target_axis in enumerate(axis_of)
    ]
    return axis_of, [float(step) for step in steps], [float(first[target_axis]) for target_axis in axis_of]


def _span(inside: np.ndarray, axis: int) -> slice:
    """Return the extent of the mask along an axis, with a margin of one sample."""
    indices = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
    return slice(max(int(indices[0]) - 1, 0), min(int(indices[-1]) + 2, inside.shape[axis]))


def _signed_distance_mm(inside: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the distance to the outline, negative outside."""
    if inside.all():
        return np.ones(inside.shape)
    within = distance_transform_edt(inside, sampling=spacing_mm)
    return within - distance_transform_edt(~inside, sampling=spacing_mm)


def _covered_voxels(positions: np.ndarray, step: float, length: int) -> np.ndarray:
    """Return the voxels of the original within one step of the samples at `positions`.

    The last sample of a coarse grid may lie almost one step before the end of the original.
    """
    voxels = np.arange(length)
    margin = _LESS_THAN_A_STEP * step
    return voxels[(voxels > positions[0] - margin) & (voxels < positions[-1] + margin)]


def _interpolate(field: np.ndarray, positions: np.ndarray, *, axis: int, at: np.ndarray) -> np.ndarray:
    """Interpolate linearly along an axis, with constant extrapolation."""
    positions = positions + _SHIFT_TO_VOXEL * (np.floor(positions + 0.5) - positions)
    position = np.interp(at, positions, np.arange(len(positions)))
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, len(positions) - 1)
    share = np.expand_dims(position - below, tuple({0, 1, 2} - {axis}))
    return np.take(field, below, axis) * (1 - share) + np.take(field, above, axis) * share
