"""Prepared supports, and the segmentations of queries and episodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
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

    @property
    def layout(self) -> tuple[int, ...]:
        """Positions and shots: equal in states that `stack_supports` can join."""
        return self.keys.shape[1], self.prototypes[0].n_shots

    def take(self, episodes: slice) -> "SupportState":
        """Select the state of some episodes."""
        return _map_tensors(lambda tensors: tensors[0][episodes], [self])


def share(tensor: Tensor, n_episodes: int) -> Tensor:
    """Assign each of `n_episodes` what a tensor has for a single one.

    A tensor that has it for each is returned itself: another node would reorder sums of gradients.
    """
    return tensor if len(tensor) == n_episodes else tensor.expand(n_episodes, *tensor.shape[1:])


def stack_supports(states: Sequence[SupportState]) -> SupportState:
    """Join states of equal `layout` to one of all their episodes, in order."""
    return states[0] if len(states) == 1 else _map_tensors(torch.cat, states)


def _map_tensors(function: Callable[[list[Tensor]], Tensor], values: Sequence[Any]) -> Any:
    """Apply a function to corresponding tensors of equally structured values."""
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(list(values))
    if isinstance(first, tuple):
        return tuple(_map_tensors(function, parts) for parts in zip(*values, strict=True))
    names = [field.name for field in fields(first)]
    return type(first)(
        **{name: _map_tensors(function, [getattr(value, name) for value in values]) for name in names}
    )


@dataclass(frozen=True)
class SegmentationOutput:
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

    query: SegmentationOutput
    support: SegmentationOutput
    has_prediction: Tensor
