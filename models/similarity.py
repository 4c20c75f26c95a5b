"""Angle-and-magnitude similarity of features and prototypes.

Its pooling over the prototypes is here, too.
"""

import torch
from torch import Tensor, nn

from models.precision import full_precision, upcast

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
            `(..., P, L)`, float32 or wider.
        """
        with full_precision(features):
            prototypes, features = upcast(prototypes), upcast(features)
            prototype_norm = _inverse_norm(prototypes.square().sum(-1))[..., :, None]
            feature_norm = _inverse_norm(features.square().sum(-2))[..., None, :]
            cosine = (prototypes @ features) * prototype_norm * feature_norm
            if not self.magnitude:
                return cosine
            # |f - p|^2 = |f|^2 + |p|^2 - 2 f.p needs no difference of every pair. What all have in common is
            # taken out before, as it would cost the sum its digits; the result does not depend on it, hence
            # no gradient.
            centre = features.detach().mean(-1)[..., None, :]
            prototypes, features = prototypes - centre, features - centre.transpose(-1, -2)
            prototype_square = prototypes.square().sum(-1)[..., :, None]
            feature_square = features.square().sum(-2)[..., None, :]
            square = (prototype_square + feature_square - 2 * prototypes @ features) / prototypes.shape[-1]
            distance = square.clamp(min=SQUARED_DISTANCE_FLOOR).sqrt()
            return cosine + self.alpha * 2 * torch.sigmoid(-GAMMA * distance)


def cosine_similarity(prototype: Tensor, features: Tensor) -> Tensor:
    """Compare a prototype with every position of the features by angle.

    The prototype is `(..., C)`, the features `(..., C, L)` and the result `(..., L)`.
    """
    with full_precision(features):
        prototype, features = upcast(prototype), upcast(features)
        product = (prototype[..., None, :] @ features)[..., 0, :]
        prototype_norm = _inverse_norm(prototype.square().sum(-1))[..., None]
        return product * prototype_norm * _inverse_norm(features.square().sum(-2))


def sharpness(tau_query: Tensor) -> Tensor:
    """Convert the query's first threshold scalar to the softmax factor `k`.

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
