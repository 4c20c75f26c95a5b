"""Make episodes as they are often made.

That is: searching per episode, two warps, three channels. The twin that `bench/episodes.py` compares with. It
plays the same episodes in distribution, but searches the volumes anew for each one and deforms every channel
twice with SciPy.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from dataloaders.volumes import PreparedScan
from dataloaders.warps import AugmentationRanges

N_CHANNELS = 3


def make_episode(
    scans: Sequence[PreparedScan],
    generator: np.random.Generator,
    *,
    min_size_px: float = 200.0,
    ranges: AugmentationRanges | None = None,
) -> dict[str, np.ndarray]:
    """Make one 1-shot episode of 256 x 256 slices.

    Returns:
        `support_image` and `query_image` `(3, H, W)` float32, `support_mask` and `query_mask` `(H, W)` bool.
    """
    ranges = ranges or AugmentationRanges()
    scan, supervoxel_id, slices = _search(scans, generator, min_size_px=min_size_px)
    images = [np.repeat(scan.image[z][None], N_CHANNELS, axis=0) for z in slices]
    masks = [scan.supervoxels[z] == supervoxel_id for z in slices]
    side = generator.integers(2)
    images[side] = _gamma(images[side], generator.uniform(*ranges.gamma))
    side = generator.integers(2)
    images[side], masks[side] = _warp_affine(images[side], masks[side], generator, ranges)
    images[side], masks[side] = _warp_elastic(images[side], masks[side], generator, ranges)
    return {
        "support_image": images[0],
        "support_mask": masks[0],
        "query_image": images[1],
        "query_mask": masks[1],
    }


def _search(
    scans: Sequence[PreparedScan], generator: np.random.Generator, *, min_size_px: float
) -> tuple[PreparedScan, int, list[int]]:
    """Draw scans and supervoxels until one has two neighbouring slices that will do."""
    while True:
        scan = scans[generator.integers(len(scans))]
        ids = np.unique(scan.supervoxels)
        supervoxel_id = int(generator.choice(ids[ids > 0]))
        areas_px = [int((image == supervoxel_id).sum()) for image in scan.supervoxels]
        starts = [
            z
            for z in range(len(areas_px) - 1)
            if min(areas_px[z : z + 2]) > 0 and max(areas_px[z : z + 2]) >= min_size_px
        ]
        if starts:
            start = int(generator.choice(starts))
            return scan, supervoxel_id, [start, start + 1][:: 1 if generator.random() < 0.5 else -1]


def _gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    low, high = image.min(), image.max()
    return (((image - low) / (high - low)) ** gamma * (high - low) + low).astype(np.float32)


def _warp_affine(
    image: np.ndarray, mask: np.ndarray, generator: np.random.Generator, ranges: AugmentationRanges
) -> tuple[np.ndarray, np.ndarray]:
    angle = math.radians(generator.uniform(-ranges.rotation_deg, ranges.rotation_deg))
    shear = math.tan(math.radians(generator.uniform(-ranges.shear_deg, ranges.shear_deg)))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(generator.uniform(*ranges.scale) * turn @ [[1, 0], [-shear, 1]])
    centre = (np.array(mask.shape) - 1) / 2
    offset = centre - inverse @ (centre + generator.uniform(-ranges.shift_px, ranges.shift_px, size=2))
    channels = [
        ndimage.affine_transform(channel, inverse, offset, order=1, mode="constant", cval=channel.min())
        for channel in image
    ]
    return np.stack(channels), ndimage.affine_transform(
        mask.astype(np.float32), inverse, offset, order=1
    ) >= 0.5


def _warp_elastic(
    image: np.ndarray, mask: np.ndarray, generator: np.random.Generator, ranges: AugmentationRanges
) -> tuple[np.ndarray, np.ndarray]:
    noise = generator.uniform(-1, 1, size=(2, *mask.shape))
    displacement = [
        ranges.elastic_amplitude
        * ndimage.gaussian_filter(plane, ranges.elastic_sigma_px, mode="constant", cval=0)
        for plane in noise
    ]
    places = np.indices(mask.shape) + displacement
    channels = [
        ndimage.map_coordinates(channel, places, order=1, mode="constant", cval=channel.min())
        for channel in image
    ]
    return np.stack(channels), ndimage.map_coordinates(mask.astype(np.float32), places, order=1) >= 0.5
