"""Cut one volume into supervoxels: scaling, graph segmentation, body mask.

Source: Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004, in 3D with
anisotropic voxels. The result is the same on every machine: ties have an order, intensities and weights are
float32, and the merge criterion is compared in float64.
"""

import math
from numbers import Integral

import numpy as np
from scipy import ndimage

from data.supervoxels import ALGORITHM_VERSION, BUILD_COMMAND
from util.errors import UserError

try:
    from data.supervoxels import felzenszwalb_3d_cy as kernel
except ImportError as error:
    raise UserError(f"the supervoxel extension is not built ({error}); run '{BUILD_COMMAND}'") from error
if kernel.KERNEL_VERSION != ALGORITHM_VERSION:
    raise UserError(
        f"the supervoxel extension is version {kernel.KERNEL_VERSION}, its source {ALGORITHM_VERSION}; "
        f"run '{BUILD_COMMAND}' again"
    )

# Steps (z, y, x) to half of the 26 neighbours, the later half in raster order. Their order here breaks ties
# between edges of equal weight, before the raster order of the voxel that the step starts from.
DIRECTIONS = (
    (0, 0, 1),
    (0, 1, 0),
    (0, 1, 1),
    (0, 1, -1),
    (1, 0, 0),
    (1, 0, 1),
    (1, 0, -1),
    (1, 1, 0),
    (1, -1, 0),
    (1, 1, 1),
    (1, 1, -1),
    (1, -1, 1),
    (1, -1, -1),
)

BODY_THRESHOLD = 10.0  # of intensities scaled to 0..255
IN_PLANE_TOLERANCE = 0.01


def make_supervoxels(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int, scale: float = 1.0
) -> np.ndarray:
    """Cut a scan's body into supervoxels.

    Args:
        volume: intensities `(Z, H, W)`, any real dtype and range; not changed.
        spacing_mm: distance of neighbouring voxels along `(z, y, x)`.
        min_size_vox: least size of a supervoxel before the body mask cuts into it.
        scale: preference for larger segments, in units of the intensity range.

    Returns:
        Supervoxel ids `(Z, H, W)`, int32: 0 outside the body, 1 to n inside, by first appearance in raster
        order before masking. The mask may leave a supervoxel small or in pieces.

    Raises:
        UserError: see `scale_intensities` and `segment_supervoxels`.
    """
    scaled = scale_intensities(volume)
    segments = segment_supervoxels(scaled, spacing_mm, min_size_vox=min_size_vox, scale=scale)
    segments += 1
    segments[~find_body(scaled)] = 0
    used = np.bincount(segments.ravel()) > 0
    used[0] = True
    dense = np.cumsum(used, dtype=np.int32) - 1
    return dense[segments].astype(np.int32, copy=False)


def scale_intensities(volume: np.ndarray) -> np.ndarray:
    """Map a volume's intensities linearly to 0..255.

    Args:
        volume: `(Z, H, W)`, any real dtype.

    Returns:
        float32 `(Z, H, W)`, computed in float64.

    Raises:
        UserError: the volume is not 3D, empty, complex, constant, or holds NaN or infinity.
    """
    _check_volume(volume)
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        raise UserError(
            f"volume: must hold different intensities, got {low:g} everywhere; is the scan empty?"
        )
    scaled = np.empty(volume.shape, dtype=np.float32)
    for target, source in zip(scaled, volume, strict=True):  # by slice: float64 of a whole CT is large
        target[...] = 255.0 * (source.astype(np.float64) - low) / (high - low)
    return scaled


def segment_supervoxels(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int, scale: float = 1.0
) -> np.ndarray:
    """Segment a volume by joining similar neighbours (26-connected).

    Intensities are taken as they are, as float32: pass a volume from `scale_intensities`. Weights along z
    grow with the ratio of slice distance to pixel distance.

    Args:
        volume: `(Z, H, W)`, any real dtype; not changed.
        spacing_mm: distance of neighbouring voxels along `(z, y, x)`; y and x may differ by 1 percent,
            their mean counts.
        min_size_vox: segments below it are joined with their most similar neighbour.
        scale: a segment of n voxels tolerates weights of `scale / 255 / n` above its own largest.

    Returns:
        Segment ids `(Z, H, W)`, int32, 0 to n - 1 by first appearance in raster order. Each segment is
        26-connected and has at least `min_size_vox` voxels, unless the volume has fewer.

    Raises:
        UserError: the volume is not 3D, empty, complex, too large, or holds NaN or infinity; the
            spacing is not plausible (`weight_factors`); `min_size_vox` or `scale` is not positive.
    """
    _check_volume(volume)
    factors = weight_factors(spacing_mm)
    check_parameters(min_size_vox, scale)
    return kernel.segment(
        np.ascontiguousarray(volume, dtype=np.float32),
        np.array(DIRECTIONS, dtype=np.int32),
        factors,
        k=scale / 255.0,
        min_size=min(int(min_size_vox), volume.size + 1),
        capacity=volume.size,
    )


def weight_factors(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the factor of each direction's weights, float32 `(13,)`.

    A step of m axes of which one is z has `sqrt((m - 1 + s^2) / m)`, s = slice over pixel distance: its
    length relative to the same step on a cubic grid. In-plane steps have 1.

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
            f"spacing: slice distance {spacing[0]:g} mm does not fit pixels of {pixel_mm:g} mm; mend the file"
        )
    n_axes = np.abs(DIRECTIONS).sum(axis=1)
    across = np.sqrt((n_axes - 1 + ratio**2) / n_axes)
    return np.where(np.array(DIRECTIONS)[:, 0] == 0, 1.0, across).astype(np.float32)


def find_body(scaled_volume: np.ndarray) -> np.ndarray:
    """Find the body in each slice of a volume scaled to 0..255.

    Args:
        scaled_volume: `(Z, H, W)`, from `scale_intensities`.

    Returns:
        Boolean `(Z, H, W)`: per slice the largest 8-connected region above 10, of equal ones the first in
        raster order, with its holes filled (4-connected). All False in a slice with nothing above 10.
    """
    body = np.zeros(scaled_volume.shape, dtype=bool)
    eight_connected = np.ones((3, 3), dtype=bool)
    for target, source in zip(body, scaled_volume, strict=True):
        regions, n_regions = ndimage.label(source > BODY_THRESHOLD, structure=eight_connected)
        if n_regions:
            largest = np.bincount(regions.ravel())[1:].argmax() + 1
            target[...] = ndimage.binary_fill_holes(regions == largest)
    return body


def check_parameters(min_size_vox: int, scale: float) -> None:
    """Raise `UserError` unless both parameters are usable.

    Both must be positive and finite, and `min_size_vox` an integer.
    """
    if not isinstance(min_size_vox, Integral) or min_size_vox < 1:
        raise UserError(f"supervoxel min size: must be a whole number of voxels above 0, got {min_size_vox}")
    if not 0.0 < scale < math.inf:
        raise UserError(f"supervoxel scale: must be positive and finite, got {scale}")


def _check_volume(volume: np.ndarray) -> None:
    if volume.ndim != 3 or volume.size == 0:
        raise UserError(f"volume: must be 3D (Z, H, W) and not empty, got shape {volume.shape}")
    if volume.dtype.kind not in "fiub":
        raise UserError(f"volume: must hold real numbers, got {volume.dtype}")
    if volume.size > kernel.MAX_VOXELS:
        raise UserError(
            f"volume: at most {kernel.MAX_VOXELS} voxels can be segmented, got {volume.size} {volume.shape}; "
            "resample or crop the scan"
        )
    largest = np.finfo(np.float32).max
    for slice_idx, pixels in enumerate(volume):
        if not (np.isfinite(pixels).all() and np.abs(pixels, dtype=np.float64).max() <= largest):
            raise UserError(
                f"volume: intensities must be finite float32 numbers, got others in slice {slice_idx}"
            )
