"""Augmented slices of one annotated scan, for networks that need no support."""

from collections.abc import Iterator

import cv2
import numpy as np

from dataloaders.augmentation import augment_intensities
from dataloaders.episode_settings import AugmentationRanges
from dataloaders.intensities import add_noise
from dataloaders.warps import sample_warp


def iterate_labelled_slices(
    images: np.ndarray,
    label_map: np.ndarray,
    *,
    batch_size: int,
    n_batches: int,
    ranges: AugmentationRanges,
    seed: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of random slices, augmented as one side of an episode is.

    Unlike an episode's, a slice may show no organ at all.

    Args:
        images: `(Z, H, W)` float32, z-scored over the scan.
        label_map: `(Z, H, W)` integers, 0 the background.
        batch_size, n_batches: slices per batch, and batches.
        ranges: of the augmentation's parameters.
        seed: of slices and augmentation.

    Yields:
        Images `(batch_size, H, W)` float32 and label maps of the same shape, int64.
    """
    generator = np.random.default_rng(seed)
    for _ in range(n_batches):
        indices = generator.integers(len(images), size=batch_size)
        pairs = [_augment(images[z], label_map[z], ranges, generator) for z in indices]
        batch, labels = (np.stack(part) for part in zip(*pairs, strict=True))
        yield batch, labels.astype(np.int64)


def _augment(
    image: np.ndarray, labels: np.ndarray, ranges: AugmentationRanges, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    # An episode changes one side of two: here a change is made or not with the same probability.
    pair = np.stack([image, image])
    augment_intensities(pair, 1, ranges=ranges, generator=generator)
    image = pair[0]
    if generator.random() < 0.5:
        x, y = sample_warp(generator, image.shape, ranges)
        # Outside: OpenCV's default border, a constant.
        image = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderValue=float(image.min()))
        labels = cv2.remap(labels.astype(np.float32), x, y, cv2.INTER_NEAREST, borderValue=0.0)
    if ranges.noise > 0 and generator.random() < 0.5:
        add_noise(image, generator.uniform(0, ranges.noise), generator)
    return image, labels
