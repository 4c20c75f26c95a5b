"""Naive episodes of the same distribution as `dataloaders.episodes`.

Each one searches the volumes again, repeats the image in three channels and warps each of them twice with
SciPy.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from dataloaders.prepared_scans import PreparedScan
from dataloaders.warps import AugmentationRanges

N_CHANNELS = 3
MIN_SIZE_PX = 200.0


def make_episode(
    scans: Sequence[PreparedScan],
    generator: np.random.Generator,
    *,
    n_shots: int = 1,
) -> dict[str, list[np.ndarray]]:
    """Make one episode of 256 x 256 slices.

    Returns:
        `images`, each `(3, H, W)` float32, and `masks`, each `(H, W)` bool: the shots, then the query.
    """
    ranges = AugmentationRanges()
    scan, supervoxel_id, slices = _search(scans, generator, n_slices=n_shots + 1)
    images = [np.repeat(scan.image[z][None], N_CHANNELS, axis=0) for z in slices]
    masks = [scan.supervoxels[z] == supervoxel_id for z in slices]
    sides = (range(n_shots), [n_shots])
    gamma = generator.uniform(*ranges.gamma)
    for i in sides[generator.integers(2)]:
        images[i] = _gamma(images[i], gamma)
    side = sides[generator.integers(2)]
    inverse, offset = _sample_affine(masks[0].shape, generator, ranges)
    coordinates = _sample_elastic(masks[0].shape, generator, ranges)
    for i in side:
        images[i], masks[i] = _warp_affine(images[i], masks[i], inverse, offset)
        images[i], masks[i] = _warp_elastic(images[i], masks[i], coordinates)
    return {"images": images, "masks": masks}


def _search(
    scans: Sequence[PreparedScan], generator: np.random.Generator, *, n_slices: int
) -> tuple[PreparedScan, int, list[int]]:
    """Sample scans and supervoxels until one has enough adjacent slices."""
    while True:
        scan = scans[generator.integers(len(scans))]
        ids = np.unique(scan.supervoxels)
        supervoxel_id = int(generator.choice(ids[ids > 0]))
        areas_px = [int((image == supervoxel_id).sum()) for image in scan.supervoxels]
        starts = [
            z
            for z in range(len(areas_px) - n_slices + 1)
            if min(areas_px[z : z + n_slices]) > 0 and max(areas_px[z : z + n_slices]) >= MIN_SIZE_PX
        ]
        if starts:
            start = int(generator.choice(starts))
            slices = list(range(start, start + n_slices))
            return scan, supervoxel_id, slices[:: 1 if generator.random() < 0.5 else -1]


def _gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    low, high = image.min(), image.max()
    return (((image - low) / (high - low)) ** gamma * (high - low) + low).astype(np.float32)


def _sample_affine(
    shape: tuple[int, int], generator: np.random.Generator, ranges: AugmentationRanges
) -> tuple[np.ndarray, np.ndarray]:
    angle = math.radians(generator.uniform(-ranges.rotation_deg, ranges.rotation_deg))
    shear = math.tan(math.radians(generator.uniform(-ranges.shear_deg, ranges.shear_deg)))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(generator.uniform(*ranges.scale) * turn @ [[1, 0], [-shear, 1]])
    centre = (np.array(shape) - 1) / 2
    shift = generator.uniform(-ranges.shift_px, ranges.shift_px, size=2)
    return inverse, centre - inverse @ (centre + shift)


def _sample_elastic(
    shape: tuple[int, int], generator: np.random.Generator, ranges: AugmentationRanges
) -> np.ndarray:
    noise = generator.uniform(-1, 1, size=(2, *shape))
    displacement = [
        ranges.elastic_amplitude
        * ndimage.gaussian_filter(plane, ranges.elastic_sigma_px, mode="constant", cval=0)
        for plane in noise
    ]
    return np.indices(shape) + displacement


def _warp_affine(
    image: np.ndarray, mask: np.ndarray, inverse: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    channels = [
        ndimage.affine_transform(channel, inverse, offset, order=1, mode="constant", cval=channel.min())
        for channel in image
    ]
    warped = ndimage.affine_transform(mask.astype(np.float32), inverse, offset, order=1)
    return np.stack(channels), warped >= 0.5


def _warp_elastic(
    image: np.ndarray, mask: np.ndarray, coordinates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    channels = [
        ndimage.map_coordinates(channel, coordinates, order=1, mode="constant", cval=channel.min())
        for channel in image
    ]
    return np.stack(channels), ndimage.map_coordinates(mask.astype(np.float32), coordinates, order=1) >= 0.5
