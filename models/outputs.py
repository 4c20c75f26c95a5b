"""What the network keeps of a support and returns for queries and episodes."""

from dataclasses import dataclass

from torch import Tensor

from models.prior_masks import Contrast, PriorMasks
from models.prototypes import Prototypes


@dataclass(frozen=True)
class SupportState:
    """A prepared support: computed once for any number of queries.

    Attributes:
        prototypes: of background and foreground.
        keys, values: `(B, S, C)`, the cross attention's projections; `S` runs over all shots' positions.
        mask: `(B, S)`, the foreground's share at each of them.
        tau: `(B, 2)`, the shots' mean.
        contrast: the support's contrast, if the form of the prior masks needs it.
    """

    prototypes: tuple[Prototypes, Prototypes]
    keys: Tensor
    values: Tensor
    mask: Tensor
    tau: Tensor
    contrast: Contrast | None


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of `Q` queries in each of `B` episodes.

    Attributes:
        logits: `(B, Q, 2, H, W)` of background and foreground.
        prior_masks: the masks that guided it.
    """

    logits: Tensor
    prior_masks: PriorMasks

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of background and foreground, `(B, Q, 2, H, W)`."""
        return self.logits.softmax(dim=2)


@dataclass(frozen=True)
class EpisodeOutput:
    """A batch of `B` training episodes, segmented in both directions.

    Attributes:
        query: the queries, segmented from the support.
        support: the support's shots, segmented from the predicted queries.
        has_prediction: `(B,)` bool, whether any query has predicted foreground; `support` is meaningless
            otherwise.
    """

    query: Segmentation
    support: Segmentation
    has_prediction: Tensor
