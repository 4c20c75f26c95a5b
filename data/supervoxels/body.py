"""Find the body in a scan, and derive the minimum size of supervoxels from it."""

import numpy as np
from scipy import ndimage

from util.errors import UserError
from util.evaluation.postprocess import largest_component

BODY_THRESHOLD = 10.0  # on intensities scaled to 0..255
# The published minimum size of 5000 voxels, relative to the median CHAOST2 body of 1.32 million voxels. The
# 1000 voxels of CMR correspond to a body of 264 000.
MIN_SIZE_SHARE = 1 / 264


def suggest_min_size(n_body_vox: float) -> int:
    """Return the minimum size of supervoxels for a body of `n_body_vox` voxels."""
    return max(1, int(float(f"{MIN_SIZE_SHARE * n_body_vox:.1e}")))


def scale_intensities(volume: np.ndarray) -> np.ndarray:
    """Map a volume's intensities linearly to 0..255.

    Args:
        volume: `(Z, H, W)`, any real dtype.

    Returns:
        float32 `(Z, H, W)`, computed in float64.

    Raises:
        UserError: the volume is not 3D, empty, complex, constant, or holds NaN or infinity.
    """
    check_volume(volume)
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        raise UserError(f"volume: must not be constant, got {low:g} everywhere; is the scan empty?")
    scaled = np.empty(volume.shape, dtype=np.float32)
    for target, source in zip(scaled, volume, strict=True):  # slice by slice: a whole CT in float64 is large
        target[...] = 255.0 * (source.astype(np.float64) - low) / (high - low)
    return scaled


def find_body(scaled_volume: np.ndarray) -> np.ndarray:
    """Segment the body in each slice of a volume scaled to 0..255.

    Args:
        scaled_volume: `(Z, H, W)`, from `scale_intensities`.

    Returns:
        Boolean `(Z, H, W)`: per slice the largest 8-connected region above 10 (ties: the first in raster
        order), with its holes filled (4-connected). All False in slices without intensities above 10.
    """
    body = np.zeros(scaled_volume.shape, dtype=bool)
    for target, source in zip(body, scaled_volume, strict=True):
        target[...] = ndimage.binary_fill_holes(largest_component(source > BODY_THRESHOLD))
    return body


def check_volume(volume: np.ndarray) -> None:
    """Raise `UserError` unless a volume is 3D, not empty, real and finite in float32."""
    if volume.ndim != 3 or volume.size == 0:
        raise UserError(f"volume: must be 3D (Z, H, W) and not empty, got shape {volume.shape}")
    if volume.dtype.kind not in "fiub":
        raise UserError(f"volume: must hold real numbers, got {volume.dtype}")
    max_float32 = np.finfo(np.float32).max
    for slice_idx, pixels in enumerate(volume):
        if not (np.isfinite(pixels).all() and np.abs(pixels, dtype=np.float64).max() <= max_float32):
            raise UserError(
                f"volume: intensities must be finite float32 numbers, slice {slice_idx} has others"
            )
