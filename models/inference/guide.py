"""Combine a segmentation with a mask that registration warped."""

from torch import Tensor

MIN_PROBABILITY = 1e-4  # bounds the log-odds of positions that neither source considers


def guide(probabilities: Tensor, warped: Tensor, *, weight: float, offset: float) -> Tensor:
    """Add the weighted log-odds of a warped mask to those of a segmentation.

    Args:
        probabilities: of the foreground, from the network, `(n, H, W)`.
        warped: of the foreground, from the smoothed warped mask, `(n, H, W)`.
        weight: of the warped mask's log-odds; 0 returns the probabilities.
        offset: added to the warped mask's log-odds; above 0 widens it.
    """
    network, registration = (
        values.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).logit() for values in (probabilities, warped)
    )
    return probabilities if weight == 0 else (network + weight * (registration + offset)).sigmoid()
