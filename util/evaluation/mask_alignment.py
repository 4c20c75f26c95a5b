"""Align a warped mask with a segmentation by a shift."""

import cv2
import numpy as np
from scipy import fft, ndimage

# Shifts are searched up to so many times their scale, in steps of a slice and of a pixel of this size.
MAX_SCALES, PIXEL_MM = 1.25, 3.0


def find_shift(
    mask: np.ndarray, log_odds: np.ndarray, *, spacing_mm: tuple[float, float, float], scale_mm: float
) -> tuple[float, float, float]:
    """Find the shift of a mask that agrees best with a segmentation.

    It maximises the mean log-odds in the shifted mask, less the squared length of the shift in units of
    `scale_mm`. Positions outside the slices have the lowest log-odds.

    Args:
        mask: of 0 to 1, `(n, H, W)`.
        log_odds: of the segmentation's foreground, `(n, H, W)`, finite.
        spacing_mm: `(z, y, x)`.
        scale_mm: the shift that costs one unit of log-odds, above 0.

    Returns:
        The shift `(z, y, x)` in voxels, for `shift_mask`; zeros for an empty mask.
    """
    _, shift = _find_best(mask, log_odds, spacing_mm, scale_mm)
    return shift


def measure_agreement(
    mask: np.ndarray, log_odds: np.ndarray, *, spacing_mm: tuple[float, float, float], scale_mm: float
) -> float:
    """Return the maximum that `find_shift` finds; -inf for an empty mask."""
    agreement, _ = _find_best(mask, log_odds, spacing_mm, scale_mm)
    return agreement


def _find_best(
    mask: np.ndarray, log_odds: np.ndarray, spacing_mm: tuple[float, float, float], scale_mm: float
) -> tuple[float, tuple[float, float, float]]:
    """Return the best agreement, and its shift; see `find_shift`."""
    coarse = _shrink(mask, spacing_mm)
    support = np.argwhere(coarse > 0)
    if not len(support):
        return -np.inf, (0.0, 0.0, 0.0)
    low, high = support.min(0), support.max(0) + 1
    step_mm = np.multiply(spacing_mm, mask.shape) / coarse.shape
    reach = (MAX_SCALES * scale_mm / step_mm).astype(int)
    coarse_log_odds = _shrink(log_odds, spacing_mm)
    padded = np.pad(coarse_log_odds, [(n, n) for n in reach], constant_values=coarse_log_odds.min())
    window = padded[tuple(slice(a, b + 2 * n) for a, b, n in zip(low, high, reach, strict=True))]
    kernel = coarse[tuple(map(slice, low, high))]
    agreement = _correlate(window, kernel) / kernel.sum()
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    cost = ((steps * step_mm / scale_mm) ** 2).sum(axis=-1)
    values = agreement - cost
    best = np.unravel_index(np.argmax(values), cost.shape)
    return float(values[best]), tuple((steps[best] * step_mm / spacing_mm).tolist())


def shift_mask(mask: np.ndarray, shift: tuple[float, float, float]) -> np.ndarray:
    """Shift a mask `(n, H, W)` by `(z, y, x)` voxels, interpolated; 0 enters."""
    return ndimage.shift(mask, shift, order=1) if any(shift) else mask


def _correlate(window: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate at all shifts that keep the kernel in the window; `scipy.signal` is slow to import."""
    size = [fft.next_fast_len(n, real=True) for n in window.shape]
    spectrum = fft.rfftn(window, size) * fft.rfftn(kernel, size).conj()
    n_shifts = np.subtract(window.shape, kernel.shape) + 1
    return fft.irfftn(spectrum, size)[tuple(map(slice, n_shifts))]


def _shrink(volume: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Average the slices of a volume to about `PIXEL_MM`, as float32; larger pixels stay."""
    factors = np.minimum(1.0, np.divide(spacing_mm[1:], PIXEL_MM))
    height, width = np.maximum(1, np.rint(volume.shape[1:] * factors)).astype(int).tolist()
    slices = volume.astype(np.float32)
    return np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA) for each in slices])
