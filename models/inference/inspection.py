"""Inspect the segmentation of a slice: priors, attention, prototypes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention import PLAIN_WEIGHT, AttentionLogits
from models.few_shot_seg import FewShotSeg
from models.mining import InformationAggregation
from models.prior_masks import PriorMasks
from models.prototypes import FOREGROUND_AREA_LIMIT, choose_regions


@dataclass(frozen=True)
class Inspection:
    """Intermediate results for one query slice and one support slice.

    Attributes:
        probabilities: `(H, W)`, the foreground's.
        prior_masks: each `(1, 1, h, w)`.
        support_attention: `(h, w)`, how much the query's predicted foreground attends to each position of
            the support, relative to the mean position; None without mining or without predicted foreground.
        query_attention: the same of the query's own positions.
        regions: `(P, 3)` int64, top row, left column and side in px of the support's regions that give
            foreground prototypes; a side of 1 is a single pixel.
    """

    probabilities: Tensor
    prior_masks: PriorMasks
    support_attention: Tensor | None
    query_attention: Tensor | None
    regions: Tensor


@torch.no_grad()
def inspect_query(model: FewShotSeg, support: Tensor, mask: Tensor, query: Tensor) -> Inspection:
    """Segment a query slice, and return the intermediate results.

    Args:
        model: in evaluation mode.
        support: `(1, H, W)`, the support slice.
        mask: `(H, W)` of 0 and 1, of its organ.
        query: `(1, H, W)`, the query slice.
    """
    encoded = model.encoder.encode(support[None, None])
    state = model.prepare_support(encoded, mask[None, None].float())
    encoded_query = model.encoder.encode(query[None, None])
    result = model.segment(state, encoded_query, image_size=query.shape[-2:])
    probabilities = result.probabilities[0, 0, 1]
    features = encoded_query.features[0, 0]
    size = features.shape[-2:]
    share = torch.nn.functional.interpolate(
        (probabilities > 0.5).float()[None, None], size=size, mode="bilinear", align_corners=True
    ).flatten()
    support_attention = query_attention = None
    if model.uses_mining and share.sum() > 0:
        positions = features.flatten(1).T
        mining = model.mining
        from_support = attention_weights(mining.cross_attention, positions, state.keys[0], state.mask[0])
        own_keys, _ = mining.self_attention.project(positions)
        prior = result.prior_masks.foreground.flatten()
        from_query = attention_weights(mining.self_attention, positions, own_keys, prior)
        support_attention, query_attention = (
            (len(share) * (share @ weights) / share.sum()).view(size)
            for weights in (from_support, from_query)
        )
    regions = choose_regions(mask[None, None].float(), area_limit=FOREGROUND_AREA_LIMIT)
    return Inspection(probabilities, result.prior_masks, support_attention, query_attention, regions)


def attention_weights(
    attention: InformationAggregation, positions: Tensor, keys: Tensor, mask: Tensor
) -> Tensor:
    """Return the weights with which positions attend to a source.

    They are those that `models.attention.attend` applies for one mask.

    Args:
        attention: the module.
        positions: `(L, C)`, the attending features.
        keys: `(S, C)` of the source.
        mask: `(S,)`, 0 to 1 over the source.

    Returns:
        `(L, S)`; rows sum to 1.
    """
    logits = AttentionLogits(keys[None])(attention.wq(positions)[None])[0]
    share = attention.mu / (PLAIN_WEIGHT + attention.mu)
    return torch.lerp(logits.softmax(-1), (logits * mask).softmax(-1), share)
