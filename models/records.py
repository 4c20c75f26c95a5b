"""What the network keeps of a support, and what it says of queries."""

from dataclasses import dataclass

from torch import Tensor

from models.prior_masks import Contrast, PriorMasks
from models.prototypes import Prototypes


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
