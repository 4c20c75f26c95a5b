"""Let masks that registration warped join a network's segmentation."""

import numpy as np
import torch

from config_ssl_upload import EvaluationConfig
from dataloaders.evaluation_sets import Job
from dataloaders.warped_masks import WarpedMasks, smooth_in_plane
from models.inference.guide import guide
from util.evaluation.postprocess import keep_largest_component


def guide_job(
    probabilities: np.ndarray, job: Job, warped: WarpedMasks, options: EvaluationConfig
) -> np.ndarray:
    """Let the warped mask of a job join the network's probabilities.

    After a failed registration the network decides alone.
    """
    if not warped.serves(job):
        return probabilities
    spacing_mm = job.query.geometry.spacing_mm
    guided = guide_by_mask(probabilities, warped.of_job(job), spacing_mm=spacing_mm, options=options)
    return keep_largest_component(guided) if options.largest_component else guided


def guide_by_mask(
    probabilities: np.ndarray,
    mask: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float],
    options: EvaluationConfig,
) -> np.ndarray:
    """Add the log-odds of a warped mask to those of a network; see `guide`.

    Args:
        probabilities: of the network, `(n, H, W)` in slices of a scan.
        mask: the warped mask in these slices, of 0 to 1.
        spacing_mm: `(z, y, x)` of the scan.
        options: weight and offset of the mask, and how it is smoothed within slices.
    """
    smoothed = smooth_in_plane(mask, spacing_mm, smoothing_mm=options.guide_smoothing_mm)
    network, warped, smoothed = map(torch.from_numpy, (probabilities, mask, smoothed))
    weight, offset = options.guide_weight, options.guide_offset
    return guide(network, warped, smoothed=smoothed, weight=weight, offset=offset).numpy()
