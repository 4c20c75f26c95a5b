"""Combine a segmentation with a mask that registration warped."""

from torch import Tensor

MIN_PROBABILITY = 1e-4  # bounds the log-odds of positions that neither source considers


def guide(probabilities: Tensor, warped: Tensor, *, smoothed: Tensor, weight: float, offset: float) -> Tensor:
    """Add the weighted log-odds of a warped mask to those of a segmentation.

    A segmentation without any foreground, as after too short a training, has no say: its log-odds would only
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
    if not (probabilities > 0.5).any():
        return warped
    network, registration = (
        values.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).logit() for values in (probabilities, smoothed)
    )
    return (network + weight * (registration + offset)).sigmoid()
