"""Angle-and-magnitude similarity of features and prototypes.

Its pooling over the prototypes is here, too.
"""

import torch
from torch import Tensor, nn

GAMMA = 3.5
ALPHA_START = 0.5
NORM_EPSILON = 1e-8
SQUARED_DISTANCE_FLOOR = 1e-12  # the square root's gradient is infinite at 0


class Similarity(nn.Module):
    """`S = cos + alpha * m`: similarity by angle and by magnitude.

    Here `m = 2 / (1 + exp(gamma * d))`, and `d` is the root-mean-square difference.

    Args:
        magnitude: False compares by angle alone, `S = cos`.
    """

    def __init__(self, *, magnitude: bool = True) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.alpha = nn.Parameter(torch.full((1,), ALPHA_START))

    def forward(self, prototypes: Tensor, features: Tensor) -> Tensor:
        """Compare every prototype with every position.

        Args:
            prototypes: `(..., P, C)`.
            features: `(..., C, L)`; leading axes broadcast.

        Returns:
            `(..., P, L)`.
        """
        product = prototypes @ features
        prototype_square = prototypes.square().sum(-1)[..., :, None]
        feature_square = features.square().sum(-2)[..., None, :]
        cosine = product * _inverse_norm(prototype_square) * _inverse_norm(feature_square)
        if not self.magnitude:
            return cosine
        # |f - p|^2 = |f|^2 + |p|^2 - 2 f.p shares the product that the cosine needs already.
        square = (prototype_square + feature_square - 2 * product) / prototypes.shape[-1]
        distance = square.clamp(min=SQUARED_DISTANCE_FLOOR).sqrt()
        return cosine + self.alpha * 2 * torch.sigmoid(-GAMMA * distance)


def cosine_similarity(prototype: Tensor, features: Tensor) -> Tensor:
    """Compare a prototype with every position of the features by angle.

    The prototype is `(..., C)`, the features `(..., C, L)` and the result `(..., L)`.
    """
    product = (prototype[..., None, :] @ features)[..., 0, :]
    prototype_norm = _inverse_norm(prototype.square().sum(-1))[..., None]
    return product * prototype_norm * _inverse_norm(features.square().sum(-2))


def sharpness(tau_query: Tensor) -> Tensor:
    """Turn the query's first threshold scalar into the softmax factor `k`.

    The scalars are `(..., 2)`; `k` is `(...)`, 1 to 11.
    """
    return 1 + 10 * torch.sigmoid(tau_query[..., 0])


def pooling_weights(similarity: Tensor, factor: Tensor, valid: Tensor) -> Tensor:
    """Weigh prototypes by a softmax over `factor * similarity`.

    Args:
        similarity: `(..., P, L)`.
        factor: `k`, broadcasting over the leading axes `(...)`.
        valid: `(..., P)` bool, the prototypes that count.

    Returns:
        `(..., P, L)`; prototypes that do not count weigh 0, and all weigh 0 where none counts.
    """
    logits = factor[..., None, None] * similarity
    counts = valid[..., None]
    weights = logits.masked_fill(~counts, torch.finfo(logits.dtype).min).softmax(dim=-2)
    return weights * counts


def _inverse_norm(square: Tensor) -> Tensor:
    return square.clamp(min=NORM_EPSILON**2).rsqrt()
