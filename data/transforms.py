"""Transform raw volumes: clip, reorient, resample, crop, in patient coordinates."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from util.errors import UserError
from util.io.grids import (
    crop_grid,
    crop_volume,
    find_reorientation,
    is_orientation,
    reorient_grid,
    reorient_volume,
)
from util.io.image_io import Geometry
from util.io.resampling import resample_label_map, resample_linear, restore_on_grid

# Relative difference of spacings below which an axis is not resampled.
_SAME_SPACING = 1e-3
# In voxels: tolerance for samples at the input's end.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Preparation:
    """Preprocessing of a dataset's volumes, applied in this order.

    Attributes:
        assume_orientation: of raw files whose header has none; None refuses them.
        orientation: target of the axes (x, y, z), such as "LPS", by flips and swaps without resampling; None
            keeps it.
        window: intensities are clipped to these two; None for no window.
        clip_percentile: intensities are clipped at this percentile of the volume; None for none.
        rescale_to: values that the window's ends are mapped to, linearly; None keeps the unit.
        border_px: removed at each in-plane border.
        in_plane_factor: of the pixel size; rows and columns become `int(size / factor + 1)`.
        spacing_mm: `(z, y, x)` to resample to; None keeps the spacing (except for `in_plane_factor`).
        size_px: `(H, W)` to crop or pad to, centred; None keeps the size.

    Raises:
        ValueError: a value is invalid, or two contradict each other.
    """

    assume_orientation: str | None = None
    orientation: str | None = None
    window: tuple[float, float] | None = None
    clip_percentile: float | None = None
    rescale_to: tuple[float, float] | None = None
    border_px: int = 0
    in_plane_factor: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    size_px: tuple[int, int] | None = None

    def __post_init__(self):
        window, percentile, factor = self.window, self.clip_percentile, self.in_plane_factor
        spacing_mm, size_px = self.spacing_mm, self.size_px
        letters = [value for value in (self.assume_orientation, self.orientation) if value is not None]
        requirements = {
            "orientations must name each patient axis once": all(map(is_orientation, letters)),
            "window must be (low, high) with low < high": window is None or window[0] < window[1],
            "clip_percentile must lie in 0..100": percentile is None or 0 < percentile <= 100,
            "rescale_to needs a window": self.rescale_to is None or window is not None,
            "border_px must not be negative": self.border_px >= 0,
            "in_plane_factor must be positive": factor is None or factor > 0,
            "spacing_mm must be three positive numbers": _are_positive(spacing_mm, length=3),
            "in_plane_factor and spacing_mm exclude each other": factor is None or spacing_mm is None,
            "size_px must be two positive numbers": _are_positive(size_px, length=2),
        }
        for requirement, is_met in requirements.items():
            if not is_met:
                raise ValueError(f"preparation: {requirement}, got {self}")


def _are_positive(numbers: tuple[float, ...] | None, *, length: int) -> bool:
    return numbers is None or (len(numbers) == length and min(numbers) > 0)


def prepare_volume(
    image: np.ndarray,
    label_map: np.ndarray | None,
    geometry: Geometry,
    preparation: Preparation,
    *,
    labels: Iterable[int],
) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
    """Prepare a raw volume.

    The image is resampled linearly, the label map one label at a time (see `resample_label_map`). Voxels
    outside the raw volume get the image's minimum and label 0.

    Args:
        image: `(Z, H, W)`, any real dtype; finite.
        label_map: `(Z, H, W)` of integers 0..255, or None.
        geometry: of both.
        preparation: the transforms.
        labels: ids that may occur in the label map; 0 need not be listed.

    Returns:
        The image float32, the label map uint8 or None, and the geometry of both. The arguments are unchanged.

    Raises:
        ValueError: shapes differ, or the label map holds another value.
        UserError: nothing is left within the borders.
    """
    labels = tuple(labels)
    _check_arrays(image, label_map, geometry, labels)
    image, grid = _transform(
        transform_intensities(image, preparation), geometry, preparation, resample_linear
    )
    if label_map is None:
        return image, None, grid
    return image, prepare_label_map(label_map, geometry, preparation, labels=labels), grid


def prepare_label_map(
    label_map: np.ndarray, geometry: Geometry, preparation: Preparation, *, labels: Iterable[int]
) -> np.ndarray:
    """Prepare a label map alone; see `prepare_volume`."""

    def resample(volume: np.ndarray, source: Geometry, target: Geometry, *, fill: float) -> np.ndarray:
        return resample_label_map(volume, source, target, labels=labels)

    return _transform(label_map, geometry, preparation, resample, fill=0)[0].astype(np.uint8)


def prepared_grid(geometry: Geometry, preparation: Preparation) -> Geometry:
    """Return the grid of `prepare_volume`'s result; raises as it does."""
    if preparation.orientation is not None:
        geometry = reorient_grid(geometry, find_reorientation(geometry, preparation.orientation))
    if preparation.border_px:
        geometry = crop_grid(geometry, *border_box(geometry.shape, preparation.border_px))
    geometry = resampled_grid(geometry, preparation)
    if preparation.size_px is not None:
        geometry = crop_grid(geometry, *centred_box(geometry.shape, preparation.size_px))
    return geometry


def _transform(
    volume: np.ndarray,
    geometry: Geometry,
    preparation: Preparation,
    resample: Callable,
    *,
    fill: float | None = None,
) -> tuple[np.ndarray, Geometry]:
    """Reorient, cut, resample and crop; pads with `fill`, or with the minimum."""
    if preparation.orientation is not None:
        turn = find_reorientation(geometry, preparation.orientation)
        volume, geometry = reorient_volume(volume, turn), reorient_grid(geometry, turn)
    if preparation.border_px:
        box = border_box(geometry.shape, preparation.border_px)
        volume, geometry = crop_volume(volume, *box, fill=0), crop_grid(geometry, *box)
    fill = float(volume.min()) if fill is None else fill
    target = resampled_grid(geometry, preparation)
    if target != geometry:
        volume, geometry = resample(volume, geometry, target, fill=fill), target
    if preparation.size_px is not None:
        box = centred_box(geometry.shape, preparation.size_px)
        volume, geometry = crop_volume(volume, *box, fill=fill), crop_grid(geometry, *box)
    return volume, geometry


def resampled_grid(geometry: Geometry, preparation: Preparation) -> Geometry:
    """Return the grid that a volume is resampled to.

    The first voxel and the axes' directions are kept, and all of an axis whose spacing is within 0.1 % of the
    target. In-plane there are `int(size / factor + 1)` samples, the usual rule, the last of which may lie
    outside; along z only those up to the outer face of the last voxel, so that no slice is extrapolated.
    """
    target_mm = preparation.spacing_mm or geometry.spacing_mm
    if preparation.in_plane_factor is not None:
        factor = preparation.in_plane_factor
        target_mm = (target_mm[0], target_mm[1] * factor, target_mm[2] * factor)
    shape, spacing_mm = list(geometry.shape), list(geometry.spacing_mm)
    for axis in range(3):
        factor = target_mm[axis] / geometry.spacing_mm[axis]
        if abs(factor - 1) <= _SAME_SPACING:
            continue
        spacing_mm[axis] = float(target_mm[axis])
        shape[axis] = int(geometry.shape[axis] / factor + 1)
        if axis == 0:
            last_sample = (geometry.shape[0] - 0.5 - _ROUNDING) / factor
            shape[0] = min(shape[0], int(last_sample) + 1)
    return replace(geometry, shape=tuple(shape), spacing_mm=tuple(spacing_mm))


def restore_mask(mask: np.ndarray, prepared: Geometry, raw: Geometry) -> np.ndarray:
    """Resample a mask of a prepared scan to the original grid.

    Args:
        mask: `(Z, H, W)` bool, integers (nonzero = inside), or probabilities, thresholded at 1/2.
        prepared: geometry of the prepared scan.
        raw: geometry of the original scan.

    Returns:
        The mask, bool of the original's shape; False where preparation cropped the scan.

    Raises:
        ValueError: the mask's shape is not the prepared scan's.
        UserError: the two grids' axes are not parallel.
    """
    if mask.shape != prepared.shape:
        raise ValueError(f"mask {mask.shape} must have the prepared scan's shape {prepared.shape}")
    return restore_on_grid(mask, prepared, raw)


def _check_arrays(
    image: np.ndarray, label_map: np.ndarray | None, geometry: Geometry, labels: tuple[int, ...]
) -> None:
    shapes = {volume.shape for volume in (image, label_map) if volume is not None}
    if shapes != {geometry.shape}:
        raise ValueError(f"image and label map must have the shape {geometry.shape}, got {sorted(shapes)}")
    if label_map is not None:
        unknown = sorted(set(np.unique(label_map).tolist()) - {0, *labels})
        if unknown:
            raise ValueError(f"label map holds {unknown}, which must be among the labels {sorted(labels)}")


def transform_intensities(image: np.ndarray, preparation: Preparation) -> np.ndarray:
    """Window, clip and rescale an image; returns float32."""
    changed = image
    if preparation.window is not None:
        low, high = preparation.window
        changed = np.clip(image.astype(np.float32), low, high)
    if preparation.clip_percentile is not None:
        limit = np.percentile(changed, preparation.clip_percentile)
        changed = np.minimum(changed.astype(np.float32), np.float32(limit))
    if preparation.rescale_to is not None:
        lowest, highest = preparation.rescale_to
        changed = (changed - low) * ((highest - lowest) / (high - low)) + lowest
    return changed.astype(np.float32, copy=False)


def border_box(shape: tuple[int, int, int], border_px: int) -> tuple[tuple, tuple]:
    """Return start and shape of the box within the in-plane borders."""
    size = (shape[1] - 2 * border_px, shape[2] - 2 * border_px)
    if min(size) < 1:
        raise UserError(
            f"slices of {shape[1]} x {shape[2]} px must be larger than twice the border of {border_px} px "
            "to remove; is this the original scan?"
        )
    return (0, border_px, border_px), (shape[0], *size)


def centred_box(shape: tuple[int, int, int], size_px: tuple[int, int]) -> tuple[tuple, tuple]:
    """Return start and shape of a centred box, rounded towards the first voxel."""
    excess = (shape[1] - size_px[0], shape[2] - size_px[1])
    start = tuple(n // 2 if n >= 0 else -(-n // 2) for n in excess)
    return (0, *start), (shape[0], *size_px)
