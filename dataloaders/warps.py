"""Augment the geometry of slices: one combined affine and elastic warp.

Lengths of the ranges are stated for slices of 256 x 256 and scale with `sqrt(H * W) / 256`, so that a
resized slice is deformed like the full one. A map holds, for every output pixel, the input position that it
is sampled from.
"""

import math

import cv2
import numpy as np

from dataloaders.episode_settings import AugmentationRanges

REFERENCE_SIZE_PX = 256

# scipy.ndimage.gaussian_filter's default truncation; the weight beyond it is below 1e-4.
_KERNEL_REACH_SIGMA = 4.0


def sample_warp(
    generator: np.random.Generator, shape: tuple[int, int], ranges: AugmentationRanges
) -> np.ndarray:
    """Sample one map of an affine followed by an elastic deformation.

    Args:
        generator: the only source of randomness.
        shape: `(H, W)` of the slice.
        ranges: of the sampled parameters.

    Returns:
        `(2, H, W)` float32: for every output pixel the input's column (x) and row (y), in pixels.
    """
    unit_px = math.sqrt(shape[0] * shape[1]) / REFERENCE_SIZE_PX
    shift_x_px, shift_y_px = generator.uniform(-ranges.shift_px, ranges.shift_px, size=2) * unit_px
    matrix = affine_source(
        shape,
        rotation_deg=generator.uniform(-ranges.rotation_deg, ranges.rotation_deg),
        shift_px=(shift_x_px, shift_y_px),
        shear_deg=generator.uniform(-ranges.shear_deg, ranges.shear_deg),
        scale=generator.uniform(*ranges.scale),
    )
    displacement_px = None
    if ranges.elastic_amplitude > 0:
        displacement_px = sample_displacement(
            generator,
            shape,
            sigma_px=ranges.elastic_sigma_px * unit_px,
            # Squared: a sigma that is k times as wide averages the noise down to 1/k.
            amplitude=ranges.elastic_amplitude * unit_px**2,
        )
    return compose_map(matrix, shape, displacement_px)


def affine_source(
    shape: tuple[int, int],
    *,
    rotation_deg: float,
    shift_px: tuple[float, float],
    shear_deg: float,
    scale: float,
) -> np.ndarray:
    """Compute the inverse affine, from output to input coordinates.

    The forward transform scales and shears, then rotates about the slice's centre, then shifts.

    Args:
        shape: `(H, W)` of the slice; its centre is `((W - 1) / 2, (H - 1) / 2)`.
        rotation_deg: from the x towards the y axis (clockwise on screen, rows pointing down).
        shift_px: `(x, y)`.
        shear_deg: x moves by `-tan(shear)` for a step in y.
        scale: above 1 enlarges.

    Returns:
        `(2, 3)` float64, `(x, y)_input = matrix @ (x, y, 1)_output`.
    """
    height, width = shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    angle = math.radians(rotation_deg)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1.0, -math.tan(math.radians(shear_deg))], [0.0, 1.0]])
    inverse = np.linalg.inv(scale * rotation @ shear)
    offset = centre - inverse @ (centre + np.asarray(shift_px))
    return np.column_stack([inverse, offset])


def sample_displacement(
    generator: np.random.Generator, shape: tuple[int, int], *, sigma_px: float, amplitude: float
) -> np.ndarray:
    """Sample a smooth random displacement field.

    Source: Simard et al., "Best practices for convolutional neural networks applied to visual document
    analysis", ICDAR 2003. The noise is 0 outside the slice.

    Returns:
        `(2, H, W)` float32 in pixels: noise in -1..1, smoothed with `sigma_px`, times `amplitude`.
    """
    noise = generator.random((2, *shape), dtype=np.float32)
    # In place from here: allocating arrays of this size costs as much as the arithmetic.
    noise *= 2
    noise -= 1
    side = 2 * int(_KERNEL_REACH_SIGMA * sigma_px + 0.5) + 1
    for plane in noise:
        cv2.GaussianBlur(plane, (side, side), sigma_px, dst=plane, borderType=cv2.BORDER_CONSTANT)
    noise *= np.float32(amplitude)
    return noise


def compose_map(
    matrix: np.ndarray, shape: tuple[int, int], displacement_px: np.ndarray | None = None
) -> np.ndarray:
    """Compose an affine and the displacement that follows it into one map.

    Args:
        matrix: `(2, 3)` from `affine_source`.
        shape: `(H, W)` of the slice.
        displacement_px: `(2, H, W)` in the output's frame, x then y; None for none.

    Returns:
        `(2, H, W)` float32 like `sample_warp`'s: `matrix @ (x + dx, y + dy, 1)`.
    """
    height, width = shape
    a = matrix.astype(np.float32)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    source = a[:, 0, None, None] * x + (a[:, 1, None] * y + a[:, 2, None])[:, :, None]
    if displacement_px is not None:
        dx, dy = displacement_px
        for plane, row in zip(source, a, strict=True):
            plane += row[0] * dx
            plane += row[1] * dy
    return source


def warp_image_and_mask(
    image: np.ndarray, mask: np.ndarray, source_map: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sample image and mask at the positions of a map.

    Args:
        image: `(H, W)` float32; interpolated linearly and padded with its minimum.
        mask: `(H, W)` float32 of 0 and 1; interpolated linearly, padded with 0, then 1 where at least 0.5.
        source_map: `(2, H, W)` float32 from `sample_warp`.

    Returns:
        New arrays, image and mask, each `(H, W)` float32. The mask may be empty.
    """
    linear = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT}
    x, y = source_map
    warped_image = cv2.remap(image, x, y, **linear, borderValue=float(image.min()))
    warped_mask = cv2.remap(mask, x, y, **linear, borderValue=0.0)
    return warped_image, (warped_mask >= 0.5).astype(np.float32)
