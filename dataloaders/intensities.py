"""Augment the intensities of slices: gamma, contrast, bias field and noise.

Slices are float32, z-scored over their scan. Functions of several slices work in place: allocating arrays of
this size costs as much as the arithmetic.
"""

import numpy as np

# Along each axis of a slice: two make one whole wave over its 300 to 400 mm, about as coarse as coils are.
_MAX_HALF_WAVES = 2


def apply_gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    """Apply a gamma curve between a slice's minimum and maximum, which are preserved.

    Args:
        image: `(H, W)` float32.
        gamma: exponent on intensities mapped to 0..1; below 1 brightens.

    Returns:
        A new `(H, W)` float32 array; a copy of a constant slice.
    """
    low, high = image.min(), image.max()
    if low == high:
        return image.copy()
    bent = np.power((image - low) / (high - low), np.float32(gamma))
    bent *= high - low
    bent += low
    return bent


def change_contrast(images: np.ndarray, factor: float) -> None:
    """Multiply each slice's deviation from its own mean, in place.

    Args:
        images: `(N, H, W)` float32.
        factor: above 1 raises the contrast.
    """
    for image in images:
        mean = image.mean()
        image *= factor
        image += mean * (1 - factor)


def sample_bias_field(generator: np.random.Generator, shape: tuple[int, int], amplitude: float) -> np.ndarray:
    """Sample a smooth multiplicative bias field, as caused by MRI receive coils.

    Its logarithm is a sum of `cos(pi i v) cos(pi j u)` with `i`, `j` in 0..2 but not both 0 (a constant
    factor), `v` and `u` the pixel centres' rows and columns between 0 and 1, and standard normal
    coefficients; it is then scaled to the amplitude.

    Source: Ashburner and Friston, "Unified segmentation", NeuroImage 2005, which also models the logarithm by
    low-frequency cosines.

    Args:
        generator: the only source of randomness.
        shape: `(H, W)` of the slice.
        amplitude: maximum magnitude of the logarithm over the slice, which is attained; above 0.

    Returns:
        `(H, W)` float32 in `exp(-amplitude)` to `exp(amplitude)`.
    """
    height, width = shape
    coefficients = generator.standard_normal((_MAX_HALF_WAVES + 1, _MAX_HALF_WAVES + 1), dtype=np.float32)
    coefficients[0, 0] = 0
    # Sums instead of matrix products, the rounding of which may depend on the number of threads.
    rows = (coefficients[:, :, None] * _half_waves(width)).sum(axis=1)
    field = np.broadcast_to(rows[0], shape).copy()
    for column, row in zip(_half_waves(height)[1:], rows[1:], strict=True):
        field += column[:, None] * row
    field *= np.float32(amplitude) / max(field.max(), -field.min())
    return np.exp(field, out=field)


def apply_bias_field(images: np.ndarray, field: np.ndarray) -> None:
    """Multiply all slices by one field, in place.

    Each slice's minimum represents zero signal: z-scored images have lost their zero, and multiplying about
    the mean would darken dark tissue where the field brightens.

    Args:
        images: `(N, H, W)` float32.
        field: `(H, W)` float32, above 0.
    """
    for image in images:
        low = image.min()
        image -= low
        image *= field
        image += low


def add_noise(images: np.ndarray, deviation: float, generator: np.random.Generator) -> None:
    """Add Gaussian noise, independent in every pixel, in place.

    Args:
        images: `(N, H, W)` float32.
        deviation: standard deviation, in units of the images; at least 0.
        generator: the only source of randomness.
    """
    noise = generator.standard_normal(images.shape, dtype=np.float32)
    noise *= deviation
    images += noise


def _half_waves(length: int) -> np.ndarray:
    """Return `cos(pi i u)` for i up to _MAX_HALF_WAVES at `length` pixel centres."""
    centres = (np.arange(length) + 0.5) / length
    return np.cos(np.pi * np.arange(_MAX_HALF_WAVES + 1)[:, None] * centres).astype(np.float32)
