"""Dice and intersection over union of masks, and the score of a volume."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VolumeScore:
    """Score of one organ in one query volume.

    Attributes:
        method: `trained`, or a baseline's name.
        protocol: `chunks` (slices that hold the organ, the published protocol) or `all_slices`.
        fold: held-out fold.
        support_id, query_id: scans.
        label, organ: which organ.
        main_support: whether the support is the protocol's.
        n_slices: number of slices segmented and scored.
        dice, iou: over those slices, 0 to 1.
    """

    method: str
    protocol: str
    fold: int
    support_id: int
    query_id: int
    label: int
    organ: str
    main_support: bool
    n_slices: int
    dice: float
    iou: float


def dice_and_iou(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Compute Dice and intersection over union of two masks of the same shape.

    Returns:
        Dice and intersection over union, 0 to 1; both 1 if both masks are empty.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"masks must have the same shape, got {predicted.shape} and {true.shape}")
    predicted, true = predicted.astype(bool), true.astype(bool)
    both = np.count_nonzero(predicted & true)
    total = np.count_nonzero(predicted) + np.count_nonzero(true)
    if total == 0:
        return 1.0, 1.0
    return 2 * both / total, both / (total - both)
