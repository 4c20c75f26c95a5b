"""Segment one volume into supervoxels: scaling, graph segmentation, body mask.

Source: Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004, in 3D with
anisotropic voxels. The result does not depend on the machine: ties have a fixed order, intensities and
weights are float32, and the merge criterion is compared in float64.
"""

import math
from numbers import Integral

import numpy as np
from skimage.segmentation import relabel_sequential

from data.supervoxels import ALGORITHM_VERSION, BUILD_COMMAND
from data.supervoxels.body import check_volume, find_body, scale_intensities
from data.supervoxels.neighbours import DIRECTIONS, weight_factors
from util.errors import UserError

try:
    from data.supervoxels import felzenszwalb_3d_cy as kernel
except ImportError as error:
    raise UserError(f"the supervoxel extension is not built ({error}); run '{BUILD_COMMAND}'") from error
if kernel.KERNEL_VERSION != ALGORITHM_VERSION:
    raise UserError(
        f"the supervoxel extension is outdated (version {kernel.KERNEL_VERSION}, not {ALGORITHM_VERSION}); "
        f"run '{BUILD_COMMAND}' again"
    )


def make_supervoxels(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int, scale: float = 1.0
) -> np.ndarray:
    """Segment a scan's body into supervoxels.

    Args:
        volume: intensities `(Z, H, W)`, any real dtype and range; not changed.
        spacing_mm: voxel spacing along `(z, y, x)`.
        min_size_vox: minimum size of a supervoxel before masking by the body.
        scale: preference for larger segments, in units of the intensity range.

    Returns:
        Supervoxel ids `(Z, H, W)`, int32: 0 outside the body, 1 to n inside, by first appearance in raster
        order before masking. Masking may leave a supervoxel small or disconnected.

    Raises:
        UserError: see `scale_intensities` and `segment_supervoxels`.
    """
    scaled = scale_intensities(volume)
    segments = segment_supervoxels(scaled, spacing_mm, min_size_vox=min_size_vox, scale=scale)
    segments += 1
    segments[~find_body(scaled)] = 0
    return relabel_sequential(segments)[0]


def segment_supervoxels(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int, scale: float = 1.0
) -> np.ndarray:
    """Segment a volume by merging similar neighbours (26-connected).

    Intensities are used unscaled, as float32: pass a volume from `scale_intensities`. Weights along z grow
    with the ratio of slice distance to pixel distance.

    Args:
        volume: `(Z, H, W)`, any real dtype; not changed.
        spacing_mm: voxel spacing along `(z, y, x)`; y and x may differ by 1 percent, their mean is used.
        min_size_vox: smaller segments are merged with their most similar neighbour.
        scale: a segment of n voxels tolerates weights of `scale / 255 / n` above its own maximum.

    Returns:
        Segment ids `(Z, H, W)`, int32, 0 to n - 1 by first appearance in raster order. Each segment is
        26-connected and has at least `min_size_vox` voxels, unless the volume has fewer.

    Raises:
        UserError: the volume is not 3D, empty, complex, too large, or holds NaN or infinity; the spacing is
            implausible (`weight_factors`); `min_size_vox` or `scale` is not positive.
    """
    check_volume(volume)
    if volume.size > kernel.MAX_VOXELS:
        raise UserError(
            f"volume: at most {kernel.MAX_VOXELS} voxels can be segmented, got {volume.size} {volume.shape}; "
            "resample or crop the scan"
        )
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


def check_parameters(min_size_vox: int, scale: float) -> None:
    """Raise `UserError` unless both are positive and finite, and the size is whole."""
    if not isinstance(min_size_vox, Integral) or min_size_vox < 1:
        raise UserError(f"supervoxel min size: must be a whole number of at least 1, got {min_size_vox}")
    if not 0.0 < scale < math.inf:
        raise UserError(f"supervoxel scale: must be positive and finite, got {scale}")
