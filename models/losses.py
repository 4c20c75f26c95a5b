"""The segmentation loss, one for both directions."""

import torch
from torch import Tensor

from models.precision import widen

CLASS_WEIGHTS = (0.1, 1.0)  # background, foreground
IGNORED_LABEL = 255


def segmentation_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Weighted negative log likelihood of each image.

    Args:
        probabilities: `(B, Q, 2, H, W)` of background and foreground.
        masks: `(B, Q, H, W)` of 0 and 1; 255 is ignored.

    Returns:
        `(B, Q)`: the mean over an image's pixels, weighted by class; 0 where every pixel is ignored.
    """
    epsilon = torch.finfo(torch.float32).eps
    likelihood = widen(probabilities).clamp(epsilon, 1 - epsilon)
    foreground = masks == 1
    of_true_class = torch.where(foreground, likelihood[:, :, 1], likelihood[:, :, 0])
    weights = torch.where(foreground, CLASS_WEIGHTS[1], CLASS_WEIGHTS[0])
    weights = weights * (masks != IGNORED_LABEL)
    total = (weights * -of_true_class.log()).sum(dim=(-1, -2))
    return total / weights.sum(dim=(-1, -2)).clamp(min=epsilon)
