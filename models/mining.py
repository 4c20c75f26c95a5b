"""TRM: target region mining by masked self- and cross-attention."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PLAIN_WEIGHT = 0.5
MU_START = 0.5
BETA_START = 0.5


class InformationAggregation(nn.Module):
    """Attention to a source, half of it through a soft mask over the source's keys.

    `A = (0.5 * softmax(Q K^T) + mu * softmax(Q K_b^T)) / (0.5 + mu)` without a `1/sqrt(C)` scale. The
    projections are linear and bias-free, so `K_b = b * K`: the masked logits are the plain ones with scaled
    columns, and several masks share them.
    """

    def __init__(self, *, feature_width: int) -> None:
        super().__init__()
        self.wq = nn.Linear(feature_width, feature_width, bias=False)
        self.wk = nn.Linear(feature_width, feature_width, bias=False)
        self.wv = nn.Linear(feature_width, feature_width, bias=False)
        self.mu = nn.Parameter(torch.full((1,), MU_START))

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Project a source `(..., L, C)` to keys and values, each `(..., L, C)`."""
        return self.wk(source), self.wv(source)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """Attend once for each mask.

        Args:
            query: `(..., L, C)`.
            keys, values: `(..., S, C)` from `project`.
            masks: each `(..., S)`, 0 to 1 over the source; leading axes broadcast. Masked-out keys keep
                logit 0, they are not removed.

        Returns:
            What is to be added to the query, `(..., L, C)`, for each mask.
        """
        logits = self.wq(query) @ keys.transpose(-1, -2)
        plain = logits.softmax(dim=-1) @ values
        return [
            (PLAIN_WEIGHT * plain + self.mu * ((logits * mask[..., None, :]).softmax(dim=-1) @ values))
            / (PLAIN_WEIGHT + self.mu)
            for mask in masks
        ]


class TargetRegionMining(nn.Module):
    """Mine each class's region from the query itself and from the support.

    `F_c = (0.5 * self + beta_c * cross) / (0.5 + beta_c)`; both attentions are shared by the classes.
    """

    def __init__(self, *, feature_width: int) -> None:
        super().__init__()
        self.self_attention = InformationAggregation(feature_width=feature_width)
        self.cross_attention = InformationAggregation(feature_width=feature_width)
        self.beta_bg = nn.Parameter(torch.full((1,), BETA_START))
        self.beta_fg = nn.Parameter(torch.full((1,), BETA_START))

    def forward(
        self,
        features: Tensor,
        prior_masks: tuple[Tensor, Tensor],
        *,
        support_keys: Tensor,
        support_values: Tensor,
        support_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Give the mined features of background and foreground, each like `features`.

        Args:
            features: the queries', `(B, Q, C, h, w)`.
            prior_masks: refined masks of background and foreground, each `(B, Q, h, w)`.
            support_keys, support_values: `(B, S, C)`, the cross attention's projections of all shots'
                positions.
            support_mask: `(B, S)`, the foreground's share at each of them.
        """
        query = features.flatten(-2).transpose(-1, -2)
        prior = [mask.flatten(-2) for mask in prior_masks]
        from_self = self.self_attention(query, *self.self_attention.project(query), prior)
        cross_masks = [(1 - support_mask)[:, None], support_mask[:, None]]
        from_cross = self.cross_attention(query, support_keys[:, None], support_values[:, None], cross_masks)
        # Both outputs are the query plus something, and their weights sum to 1, so the query is added once.
        mined = (
            query + (PLAIN_WEIGHT * own + beta * cross) / (PLAIN_WEIGHT + beta)
            for own, cross, beta in zip(from_self, from_cross, (self.beta_bg, self.beta_fg), strict=True)
        )
        background, foreground = (x.transpose(-1, -2).unflatten(-1, features.shape[-2:]) for x in mined)
        return background, foreground
