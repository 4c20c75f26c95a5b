"""Sharpen a segmentation by the intensities of the segmented scan itself."""

import cv2
import numpy as np
from scipy import ndimage

from util.evaluation.postprocess import THRESHOLD

# Chosen with it on CHAOST2 (fold 2) and PHANTOM.
RECOMMENDED_WEIGHT = 2.0
# Foreground above this probability is the sample of the organ's intensities, if it is large enough.
CONFIDENT, MIN_SAMPLE = 0.8, 50
N_BINS, SMOOTHING_BINS = 40, 3.0
# Outliers share the first and the last bin.
RANGE_PERCENT = (0.5, 99.5)
MIN_DENSITY = 1e-3  # of a bin; bounds the ratio at intensities that one side does not show
MIN_PROBABILITY = 1e-4


def refine_by_intensities(
    probabilities: np.ndarray,
    image: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float],
    weight: float,
    margin_mm: float,
) -> np.ndarray:
    """Add the log-likelihood ratio of intensities, inside to around, to log-odds.

    Both densities are smoothed histograms of this scan's own segmented slices: of the confident foreground,
    and of a margin around the foreground of each slice. No label of the scan is used.

    Args:
        probabilities: of an organ, `(n, H, W)`, floating point, 0 to 1; predicted above 1/2.
        image: the same slices, `(n, H, W)`, any unit.
        spacing_mm: voxel spacing `(z, y, x)`.
        weight: of the ratio; 0 returns the probabilities.
        margin_mm: width of the margin within slices. Beyond it nothing changes.

    Returns:
        New probabilities of the same shape and dtype; those given if foreground or margin are empty, or the
        image has no contrast.
    """
    foreground = probabilities > THRESHOLD
    near = _dilate(foreground, margin_mm / np.array(spacing_mm[1:]))
    margin = near & ~foreground
    low, high = np.percentile(image, RANGE_PERCENT)
    if weight == 0 or low == high or not foreground.any() or not margin.any():
        return probabilities
    confident = probabilities > CONFIDENT
    sample = confident if np.count_nonzero(confident) >= MIN_SAMPLE else foreground
    bins = np.clip((image[near] - low) / (high - low) * (N_BINS - 1) + 0.5, 0, N_BINS - 1).astype(np.intp)
    inside, around = (_density(bins[part[near]]) for part in (sample, margin))
    clipped = np.clip(probabilities[near], MIN_PROBABILITY, 1 - MIN_PROBABILITY).astype(np.float64)
    log_odds = np.log(clipped / (1 - clipped)) + weight * np.log(inside / around)[bins]
    refined = probabilities.copy()
    refined[near] = 1 / (1 + np.exp(-log_odds))
    return refined


def _dilate(masks: np.ndarray, radii_px: np.ndarray) -> np.ndarray:
    """Dilate masks `(n, H, W)` slice by slice by an ellipse of radii `(y, x)`, rounded to whole pixels."""
    height, width = (2 * np.rint(radii_px).astype(int) + 1).tolist()
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, height))
    return np.stack([cv2.dilate(mask.astype(np.uint8), ellipse) for mask in masks]) > 0


def _density(bins: np.ndarray) -> np.ndarray:
    counts = np.bincount(bins, minlength=N_BINS)
    return ndimage.gaussian_filter1d(counts / len(bins), SMOOTHING_BINS, mode="nearest") + MIN_DENSITY
