"""Improve a segmentation by warped masks and by the scan's own intensities."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import special
from torch import Tensor

from config_ssl_upload import EvaluationConfig
from dataloaders.evaluation_sets import Job
from dataloaders.warped_masks import WarpedMasks, smooth_in_plane
from models.inference.scan import resize_slices
from util.evaluation.intensity_refinement import refine_by_intensities
from util.evaluation.mask_alignment import find_shift, measure_agreement, shift_mask
from util.evaluation.postprocess import THRESHOLD, keep_largest_component

MIN_PROBABILITY = 1e-4  # bounds the log-odds of positions that neither source considers
NO_SHIFT, MAX_ALIGNMENTS = (0.0, 0.0, 0.0), 3
MAX_LOG_ODDS = 4.0  # so that a few certain voxels do not decide where a mask lies
MIN_ADVANTAGE = 0.1  # of a further registration's mask over the first one's, in units of log-odds


def join(probabilities: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Average the log-odds of two segmentations.

    One without any foreground, as after too short a training, is ignored, as in `guide`.

    Args:
        probabilities, other: of the foreground, `(n, H, W)`.
    """
    members = [member for member in (probabilities, other) if (member > THRESHOLD).any()]
    if len(members) < 2:
        return members[0] if members else probabilities
    bounds = MIN_PROBABILITY, 1 - MIN_PROBABILITY
    return special.expit(np.mean([special.logit(np.clip(member, *bounds)) for member in members], axis=0))


def guide_job(
    probabilities: np.ndarray, job: Job, warped: WarpedMasks, options: EvaluationConfig
) -> np.ndarray:
    """Combine the network's probabilities with the warped mask of a job.

    If registration failed, the network's probabilities are returned.
    """
    if not warped.covers(job):
        return probabilities
    grid = {"slices": job.assignment.slices, "spacing_mm": job.query.geometry.spacing_mm}
    mask = choose_mask(probabilities, warped.candidates(job), job.query.images, **grid, options=options)
    guided = guide_by_mask(probabilities, mask, job.query.images, **grid, options=options)
    return keep_largest_component(guided) if options.largest_component else guided


def chooses_mask(options: EvaluationConfig) -> bool:
    """Return whether each mask is chosen from two registrations."""
    return options.guide_measures > 1 and options.guide_shift_mm > 0


def choose_mask(
    probabilities: np.ndarray,
    masks: Sequence[np.ndarray],
    images: torch.Tensor,
    *,
    slices: np.ndarray,
    spacing_mm: tuple[float, float, float],
    options: EvaluationConfig,
) -> np.ndarray:
    """Choose, of an organ's warped masks, the one that agrees best with a network.

    See `measure_agreement`; the network's result is refined by intensities for it. A further mask must be
    better than the first one by `MIN_ADVANTAGE`. If there is no choice, or the network finds nothing, the
    first one is returned.

    Args:
        probabilities, images, slices, spacing_mm: see `guide_by_mask`.
        masks: at least one, each in the whole scan, `(Z, H, W)`.
        options: see `guide_by_mask`.
    """
    if len(masks) == 1 or not chooses_mask(options) or not (probabilities > THRESHOLD).any():
        return masks[0]
    network = _spread(probabilities, slices, len(masks[0]))
    log_odds = _bounded_log_odds(refine_by_slices(network, images, spacing_mm=spacing_mm, options=options))
    agreements = [
        measure_agreement(mask, log_odds, spacing_mm=spacing_mm, scale_mm=options.guide_shift_mm)
        for mask in masks
    ]
    agreements[0] += MIN_ADVANTAGE
    return masks[int(np.argmax(agreements))]


def guide_by_mask(
    probabilities: np.ndarray,
    mask: np.ndarray,
    images: torch.Tensor,
    *,
    slices: np.ndarray,
    spacing_mm: tuple[float, float, float],
    options: EvaluationConfig,
) -> np.ndarray:
    """Align a warped mask, and add its log-odds to a network's; see `guide`.

    The mask is shifted to where it agrees best with the combined result, refined by intensities if these are
    on; that result then follows from the shifted mask, and so on until the shift stays.

    Args:
        probabilities: of the network, `(n, H, W)` in slices of a scan; elsewhere 0 is assumed.
        mask: the warped mask in the whole scan, `(Z, H, W)`, of 0 to 1: before it is aligned, it may lie in
            other slices.
        images: the whole scan, `(Z, 1, h, w)`.
        slices: positions of the n slices.
        spacing_mm: `(z, y, x)` of the scan.
        options: weight and offset of the mask, how it is smoothed within slices, and the scale of shifts.
    """
    network = _spread(probabilities, slices, len(mask))
    guided = _guide_by_aligned(network, mask, spacing_mm=spacing_mm, options=options)
    if options.guide_shift_mm == 0 or not (probabilities > THRESHOLD).any():
        return guided[slices]
    shift = NO_SHIFT
    for _ in range(MAX_ALIGNMENTS):
        refined = refine_by_slices(guided, images, spacing_mm=spacing_mm, options=options)
        log_odds = _bounded_log_odds(refined)
        previous = shift
        shift = find_shift(mask, log_odds, spacing_mm=spacing_mm, scale_mm=options.guide_shift_mm)
        if shift == previous:
            break
        aligned = shift_mask(mask, shift)
        guided = _guide_by_aligned(network, aligned, spacing_mm=spacing_mm, options=options)
    return guided[slices]


def _spread(probabilities: np.ndarray, slices: np.ndarray, n_slices: int) -> np.ndarray:
    """Put probabilities `(n, H, W)` into a whole scan `(n_slices, H, W)`; elsewhere 0."""
    whole = np.zeros((n_slices, *probabilities.shape[1:]), probabilities.dtype)
    whole[slices] = probabilities
    return whole


def _bounded_log_odds(probabilities: np.ndarray) -> np.ndarray:
    return np.clip(special.logit(probabilities), -MAX_LOG_ODDS, MAX_LOG_ODDS)


def _guide_by_aligned(
    probabilities: np.ndarray,
    mask: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float],
    options: EvaluationConfig,
) -> np.ndarray:
    smoothed = smooth_in_plane(mask, spacing_mm, smoothing_mm=options.guide_smoothing_mm)
    network, warped, smoothed = map(torch.from_numpy, (probabilities, mask, smoothed))
    weight, offset = options.guide_weight, options.guide_offset
    return guide(network, warped, smoothed=smoothed, weight=weight, offset=offset).numpy()


def guide(probabilities: Tensor, warped: Tensor, *, smoothed: Tensor, weight: float, offset: float) -> Tensor:
    """Add the weighted log-odds of a warped mask to those of a segmentation.

    A segmentation without any foreground, as after too short a training, is ignored: its log-odds would only
    shrink the warped mask.

    Args:
        probabilities: of the foreground, from the network, `(n, H, W)`.
        warped: of the foreground, from the warped mask, `(n, H, W)`; returned if no probability exceeds 1/2.
        smoothed: the warped mask smoothed, `(n, H, W)`, whose log-odds are added.
        weight: of these log-odds; 0 returns the probabilities.
        offset: added to these log-odds; above 0 widens the mask.
    """
    if weight == 0:
        return probabilities
    if not (probabilities > THRESHOLD).any():
        return warped
    network, registration = (
        values.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).logit() for values in (probabilities, smoothed)
    )
    return (network + weight * (registration + offset)).sigmoid()


def refine_job(probabilities: np.ndarray, job: Job, options: EvaluationConfig) -> np.ndarray:
    """Refine the probabilities `(n, H, W)` of a job by the query's intensities."""
    images = job.query.images[job.assignment.slices]
    spacing_mm = job.query.geometry.spacing_mm
    refined = refine_by_slices(probabilities, images, spacing_mm=spacing_mm, options=options)
    return keep_largest_component(refined) if options.largest_component else refined


def refine_by_slices(
    probabilities: np.ndarray,
    images: torch.Tensor,
    *,
    spacing_mm: tuple[float, float, float],
    options: EvaluationConfig,
) -> np.ndarray:
    """Refine probabilities by network-size slices; see `refine_by_intensities`.

    Args:
        probabilities: `(n, H, W)` in slices of a scan.
        images: `(n, 1, h, w)`, the same slices; resized to `(H, W)`.
        spacing_mm: `(z, y, x)` of the probabilities.
        options: weight of the intensities, and the margin that they may change.
    """
    image = resize_slices(images[:, 0], probabilities.shape[1:]).numpy()
    weight, margin_mm = options.intensity_weight, options.intensity_margin_mm
    return refine_by_intensities(
        probabilities, image, spacing_mm=spacing_mm, weight=weight, margin_mm=margin_mm
    )
