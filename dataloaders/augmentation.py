"""Augment an episode, each transform on one side: the support or the query."""

import numpy as np

from dataloaders.episode_settings import AugmentationRanges
from dataloaders.intensities import (
    add_noise,
    apply_bias_field,
    apply_gamma,
    change_contrast,
    sample_bias_field,
)
from dataloaders.warps import sample_warp, warp_image_and_mask

# A few attempts nearly always keep the target in view; a target of a pixel or two may have no such warp.
_MAX_WARP_TRIES = 4


def augment_episode(
    images: np.ndarray,
    masks: np.ndarray,
    n_shots: int,
    *,
    ranges: AugmentationRanges,
    generator: np.random.Generator,
) -> None:
    """Augment intensities and geometry of an episode's slices, in place.

    Gamma, contrast, brightness, bias field, warp and noise, in this order; each applies to the support or to
    the query, with probability 1/2. Its parameters are shared by all shots; noise differs per pixel. A
    disabled intensity transform consumes no random number (gamma always does).

    A warp that would push the target out of a slice is resampled, up to four times in all; after that the
    slices keep their geometry, so that no mask is ever empty.

    Args:
        images: `(n_shots + 1, H, W)` float32, the support's slices first.
        masks: `(n_shots + 1, H, W)` float32 of 0 and 1, none empty.
        n_shots: support slices.
        ranges: of the sampled parameters.
        generator: the only source of randomness.
    """
    augment_intensities(images, n_shots, ranges=ranges, generator=generator)
    side = _draw_side(n_shots, generator)
    _warp_in_view(images[side], masks[side], generator, ranges)
    # Last: a warp would smooth noise, and fill what lies outside the slice with its darkest pixel.
    if ranges.noise > 0:
        side = _draw_side(n_shots, generator)
        add_noise(images[side], generator.uniform(0, ranges.noise), generator)


def augment_intensities(
    images: np.ndarray, n_shots: int, *, ranges: AugmentationRanges, generator: np.random.Generator
) -> None:
    """Augment gamma, contrast, brightness and bias field; see `augment_episode`."""
    side = _draw_side(n_shots, generator)
    gamma = generator.uniform(*ranges.gamma)
    for image in images[side]:
        image[:] = apply_gamma(image, gamma)
    if tuple(ranges.contrast) != (1, 1):
        side = _draw_side(n_shots, generator)
        change_contrast(images[side], generator.uniform(*ranges.contrast))
    if ranges.brightness > 0:
        side = _draw_side(n_shots, generator)
        images[side] += generator.uniform(-ranges.brightness, ranges.brightness)
    if ranges.bias > 0:
        side = _draw_side(n_shots, generator)
        field = sample_bias_field(generator, images.shape[1:], generator.uniform(0, ranges.bias))
        apply_bias_field(images[side], field)


def _draw_side(n_shots: int, generator: np.random.Generator) -> slice:
    return slice(0, n_shots) if generator.random() < 0.5 else slice(n_shots, n_shots + 1)


def _warp_in_view(
    images: np.ndarray, masks: np.ndarray, generator: np.random.Generator, ranges: AugmentationRanges
) -> None:
    """Warp all slices in place by one map that empties no mask, if one is found."""
    for _ in range(_MAX_WARP_TRIES):
        source_map = sample_warp(generator, images.shape[1:], ranges)
        pairs = [warp_image_and_mask(*pair, source_map) for pair in zip(images, masks, strict=True)]
        if all(mask.any() for _, mask in pairs):
            for z, (image, mask) in enumerate(pairs):
                images[z], masks[z] = image, mask
            return
