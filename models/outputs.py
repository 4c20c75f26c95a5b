"""What the network keeps of a support, and what it says of queries."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.prior_masks import Contrast, PriorMasks
from models.prototypes import Prototypes

# What a training step is told by, in the order of `EpisodeLosses.told`.
METRICS = (
    "loss",
    "query_loss",
    "alignment_loss",
    "raw_prior_background",
    "raw_prior_foreground",
    "prior_background",
    "prior_foreground",
    "prior_dice_background",
    "prior_dice_foreground",
    "prior_dice_by_chance",
)


@dataclass(frozen=True)
class SupportState:
    """All that a segmentation needs of the support.

    It is computed once for any number of queries.

    Attributes:
        prototypes: of background and foreground.
        keys, values: `(B, S, C)`, the cross attention's projections; `S` runs over all shots' positions.
        mask: `(B, S)`, the foreground's share at each of them.
        tau: `(B, 2)`, the shots' mean.
        contrast: what the prior masks' form may need of the support; None where it does not.
    """

    prototypes: tuple[Prototypes, Prototypes]
    keys: Tensor
    values: Tensor
    mask: Tensor
    tau: Tensor
    contrast: Contrast | None


@dataclass(frozen=True)
class Segmentation:
    """What the network says of `Q` queries in each of `B` episodes.

    Attributes:
        probabilities: `(B, Q, 2, H, W)` of background and foreground.
        prior_masks: what HCPMG found.
    """

    probabilities: Tensor
    prior_masks: PriorMasks


@dataclass(frozen=True)
class EpisodeLosses:
    """The losses of a training batch, and the signs of life of its prior.

    Attributes:
        query, alignment: `(B,)`, one of each per episode.
        prior_areas: `(4,)`, see `PriorMasks.areas`.
        prior_agreement: `(3,)`, see `PriorMasks.agreement`.
    """

    query: Tensor
    alignment: Tensor
    prior_areas: Tensor
    prior_agreement: Tensor

    @property
    def total(self) -> Tensor:
        """The batch's loss, which is to be minimised: a scalar."""
        return (self.query + self.alignment).mean()

    def told(self) -> Tensor:
        """Put what the step is told by into one tensor, in the order of `METRICS`."""
        query, alignment = self.query.detach().mean(), self.alignment.detach().mean()
        totals = torch.stack([query + alignment, query, alignment]).float()
        return torch.cat([totals, self.prior_areas, self.prior_agreement])


def describe_metrics(averages: Mapping[str, float]) -> tuple[str, str]:
    """Put averages of `METRICS` into words: few, and all.

    An alignment loss of exactly 0 is named for what it means.
    """
    of = averages
    refined = f"prior fg {of['prior_foreground']:.3f} bg {of['prior_background']:.3f}"
    raw = f"raw fg {of['raw_prior_foreground']:.3f} bg {of['raw_prior_background']:.3f}"
    alignment = f"{of['alignment_loss']:.4f}" if of["alignment_loss"] else "none, as no query got a target"
    parts = f"query {of['query_loss']:.4f}, alignment {alignment}"
    return f"loss {of['loss']:.3f}, {refined}", f"loss {of['loss']:.4f} ({parts}), {refined} ({raw})"
