"""HCPMG: high-confidence prior masks from angle-and-magnitude similarity."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.precision import widen
from models.prototypes import Prototypes
from models.similarity import Similarity, pooling_weights, sharpness

SIMILARITY_SCALE = 10.0


@dataclass(frozen=True)
class PriorMasks:
    """Hard masks of where a query surely shows background and foreground.

    Each is `(B, Q, h, w)` of 0 and 1.

    Attributes:
        raw_background, raw_foreground: the thresholded similarities.
        background, foreground: those without what the other claims too.
    """

    raw_background: Tensor
    raw_foreground: Tensor
    background: Tensor
    foreground: Tensor

    def areas(self) -> Tensor:
        """Return the masks' shares of the image, in attribute order: `(4,)`, 0 to 1."""
        masks = (self.raw_background, self.raw_foreground, self.background, self.foreground)
        return torch.stack([mask.mean(dtype=torch.float32) for mask in masks])


def make_prior_masks(
    similarity: Similarity,
    prototypes: tuple[Prototypes, Prototypes],
    features: Tensor,
    *,
    tau_support: Tensor,
    tau_query: Tensor,
) -> PriorMasks:
    """Threshold each class's pooled similarity, and take out what both classes claim.

    Args:
        similarity: the module with the learnable `alpha`.
        prototypes: of background and foreground, for `B` episodes.
        features: the queries', `(B, Q, C, h, w)`.
        tau_support: `(B, 2)`, the thresholds of background and foreground.
        tau_query: `(B, Q, 2)`.

    Returns:
        The masks; hard, so no gradient flows through them.
    """
    with torch.no_grad():
        raw = [
            SIMILARITY_SCALE * pooled > tau_support[:, None, index, None]
            for index, pooled in enumerate(_pooled_similarities(similarity, prototypes, features, tau_query))
        ]
    dtype = widen(features).dtype
    background, foreground = (mask.to(dtype).unflatten(-1, features.shape[-2:]) for mask in raw)
    return PriorMasks(
        raw_background=background,
        raw_foreground=foreground,
        background=background * (1 - foreground),
        foreground=foreground * (1 - background),
    )


def full_prior_masks(features: Tensor) -> PriorMasks:
    """Return masks that are 1 everywhere: the network without a prior."""
    ones = widen(features).new_ones(*features.shape[:2], *features.shape[-2:])
    return PriorMasks(raw_background=ones, raw_foreground=ones, background=ones, foreground=ones)


def _pooled_similarities(
    similarity: Similarity, prototypes: tuple[Prototypes, Prototypes], features: Tensor, tau_query: Tensor
) -> list[Tensor]:
    """Pool over all prototypes of each class, the global one included: each `(B, Q, L)`."""
    sets = [torch.cat([one.global_[:, None], one.region], dim=1)[:, None] for one in prototypes]
    # Both classes at once: what concerns the features alone is computed once.
    compared = similarity(torch.cat(sets, dim=2), features.flatten(-2))
    pooled = []
    for one, of_class in zip(prototypes, compared.split([s.shape[2] for s in sets], dim=2), strict=True):
        valid = torch.cat([one.valid.new_ones(len(one.valid), 1), one.valid], dim=1)[:, None]
        pooled.append((pooling_weights(of_class, sharpness(tau_query), valid) * of_class).sum(dim=-2))
    return pooled
