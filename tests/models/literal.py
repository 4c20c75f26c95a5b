"""A slow, literal reading of the method's formulas: the oracle of the tests in this folder.

Written from the formulas with no regard for cost: features are upsampled to the image, windows are visited
one by one, differences to prototypes are formed, masked keys are projected anew. A feature map is (C, h, w),
a mask (H, W), prototypes (P, C). Nothing here uses the code under test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND, FOREGROUND = 0, 1
GAMMA = 3.5
EPS = 1e-5


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (C, H, W) bilinearly with corners aligned."""
    return F.interpolate(image[None], size=tuple(size), mode="bilinear", align_corners=True)[0]


def evenly_spaced(items: Sequence, limit: int) -> list:
    """Keep all of a sequence, or `limit` of its items at equal steps from the first on."""
    if len(items) <= limit:
        return list(items)
    return [items[step * len(items) // limit] for step in range(limit)]


def counting_windows(mask: Tensor, class_index: int) -> list[tuple[int, int]]:
    """List the corners of the 16 x 16 windows that count for a class, in raster order."""
    height, width = mask.shape
    n_px = mask.sum().item()
    if n_px == 0:
        return []
    min_px = min(256 if class_index == BACKGROUND else 0.95 * 256, n_px / 100)
    corners = []
    for top in range(0, height - 16 + 1, 8):
        for left in range(0, width - 16 + 1, 8):
            if mask[top : top + 16, left : left + 16].sum().item() >= min_px:
                corners.append((top, left))
    return corners


def window_means(features: Tensor, mask: Tensor, corners: Sequence[tuple[int, int]]) -> Tensor:
    """Average the upsampled features over the mask inside each window: (len(corners), C)."""
    full = resize(features, mask.shape)
    means = [full.new_zeros(0, len(full))]
    for top, left in corners:
        rows, columns = slice(top, top + 16), slice(left, left + 16)
        inside = mask[rows, columns]
        means.append(((full[:, rows, columns] * inside).sum(dim=(1, 2)) / inside.sum())[None])
    return torch.cat(means)


def pixel_features(features: Tensor, mask: Tensor) -> Tensor:
    """Take the upsampled features at every masked pixel, in raster order: (n_px, C)."""
    return resize(features, mask.shape)[:, mask.bool()].T


def region_prototypes(features: Tensor, mask: Tensor, class_index: int) -> Tensor:
    """Take one image's region prototypes of a class as in evaluation: (P, C)."""
    corners = counting_windows(mask, class_index)
    if corners:
        return window_means(features, mask, evenly_spaced(corners, 150))
    pixels = pixel_features(features, mask)
    return pixels[evenly_spaced(range(len(pixels)), 100)]


def global_prototype(features: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Average the upsampled features over the masks of all shots: (C,)."""
    total, area = 0, 0
    for of_shot, mask in zip(features, masks, strict=True):
        total = total + (resize(of_shot, mask.shape) * mask).sum(dim=(1, 2))
        area = area + mask.sum()
    return total / (area + EPS)


def similarities(prototypes: Tensor, features: Tensor, alpha: Tensor, *, magnitude: bool = True) -> Tensor:
    """Compare each prototype with each feature vector, by angle and magnitude: (P, h, w)."""
    rows = [features.new_zeros(0, *features.shape[1:])]
    for prototype in prototypes:
        everywhere = prototype[:, None, None].expand_as(features)
        similarity = F.cosine_similarity(everywhere, features, dim=0)
        if magnitude:
            distance = (features - everywhere).square().mean(dim=0).clamp_min(1e-12).sqrt()
            similarity = similarity + alpha * 2 / (1 + torch.exp(GAMMA * distance))
        rows.append(similarity[None])
    return torch.cat(rows)


def attention_weights(similarity: Tensor, tau_query: Tensor) -> Tensor:
    """Turn similarities (P, h, w) into weights over the prototypes."""
    return torch.softmax((1 + 10 * torch.sigmoid(tau_query[0])) * similarity, dim=0)


def unrefined_prior(similarity: Tensor, tau_query: Tensor, threshold: Tensor) -> Tensor:
    """Threshold the pooled similarity (P, h, w) of all of a class's prototypes: (h, w) of 0 and 1."""
    pooled = (attention_weights(similarity, tau_query) * similarity).sum(dim=0)
    return (10 * pooled > threshold).to(similarity.dtype)


@dataclass(frozen=True)
class Aggregation:
    """The weights of one information aggregation module: three (C, C) matrices and a scalar."""

    query: Tensor
    key: Tensor
    value: Tensor
    mu: Tensor


def aggregate(weights: Aggregation, query: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Gather a source's (C, n) content at a query's (C, h, w) positions, residual included; mask: (n,)."""
    positions = query.flatten(1)
    queries = (weights.query @ positions).T
    keys = weights.key @ source
    masked_keys = weights.key @ (mask * source)
    attention = 0.5 * torch.softmax(queries @ keys, dim=1)
    attention = attention + weights.mu * torch.softmax(queries @ masked_keys, dim=1)
    attention = attention / (0.5 + weights.mu)
    gathered = (attention @ (weights.value @ source).T).T
    return (positions + gathered).reshape(query.shape)


def mine(
    own: Aggregation,
    cross: Aggregation,
    beta: Tensor,
    *,
    query: Tensor,
    prior: Tensor,
    source: Tensor,
    mask: Tensor,
) -> Tensor:
    """Mine one class's region from the query (C, h, w) itself and from the support's positions (C, n)."""
    from_self = aggregate(own, query, query.flatten(1), prior.flatten())
    from_cross = aggregate(cross, query, source, mask)
    return (0.5 * from_self + beta * from_cross) / (0.5 + beta)


def query_prototype(mined: Tensor, prior: Tensor) -> Tensor:
    """Average the mined features over the refined prior: (C,)."""
    return (mined * prior).sum(dim=(1, 2)) / (prior.sum() + EPS)


def matching_maps(
    global_: Tensor,
    region: Tensor,
    mined: Tensor,
    *,
    alpha: Tensor,
    tau_query: Tensor,
    magnitude: bool = True,
    n_shots: int = 1,
) -> Tensor:
    """Match mined features with expanded prototypes: (2C + 3, h, w); s_sum is a mean over shots."""
    similarity = similarities(region, mined, alpha, magnitude=magnitude)
    weights = attention_weights(similarity, tau_query)
    matched = torch.zeros_like(mined)
    pooled, summed = torch.zeros_like(mined[0]), torch.zeros_like(mined[0])
    for prototype, weight, of_prototype in zip(region, weights, similarity, strict=True):
        matched = matched + weight * prototype[:, None, None]
        pooled = pooled + weight * of_prototype
        summed = summed + of_prototype / n_shots
    of_global = F.cosine_similarity(global_[:, None, None].expand_as(mined), mined, dim=0)
    return torch.cat([mined, matched, pooled[None], summed[None], of_global[None]])


def decode(weights: Mapping[str, Tensor], name: str, maps: Tensor) -> Tensor:
    """Run a decoder in evaluation, where dropout does nothing: (1, h, w)."""

    def convolve(layer: str, x: Tensor) -> Tensor:
        kernel = weights[f"matching.{name}.{layer}.weight"]
        return F.conv2d(x[None], kernel, padding=kernel.shape[-1] // 2)[0]

    x = convolve("res1.0", convolve("merge.0", maps).relu()).relu()
    x = x + convolve("res2.2", convolve("res2.0", x).relu()).relu()
    return convolve("cls.3", convolve("cls.0", x).relu())


def segmentation_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Score (2, H, W) probabilities against one (H, W) mask of 0, 1 and 255."""
    eps = torch.finfo(torch.float32).eps
    total, weight_sum = probabilities.new_zeros(()), 0.0
    for label, weight in ((BACKGROUND, 0.1), (FOREGROUND, 1.0)):
        here = mask == label
        total = total - weight * probabilities[label][here].clamp(eps, 1 - eps).log().sum()
        weight_sum += weight * here.sum().item()
    return total / weight_sum
