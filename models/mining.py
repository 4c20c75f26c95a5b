"""TRM: target region mining by masked self- and cross-attention."""

import torch
from torch import Tensor, nn

from models.attention import PLAIN_WEIGHT, attend
from models.outputs import share

MU_START = 0.5
BETA_START = 0.5


class InformationAggregation(nn.Module):
    """Attention to a source, half of it through a soft mask over the source's keys.

    `A = (0.5 * softmax(Q K^T) + mu * softmax(Q K_b^T)) / (0.5 + mu)`; see `attend`.
    """

    def __init__(self, *, feature_width: int) -> None:
        super().__init__()
        self.wq = nn.Linear(feature_width, feature_width, bias=False)
        self.wk = nn.Linear(feature_width, feature_width, bias=False)
        self.wv = nn.Linear(feature_width, feature_width, bias=False)
        self.mu = nn.Parameter(torch.full((1,), MU_START))

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Project a source `(..., S, C)` to keys and values, each `(..., S, C)`."""
        return self.wk(source), self.wv(source)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, masks: Tensor) -> Tensor:
        """Attend once for each mask.

        Args:
            query: `(N, L, C)`, or `(1, L, C)` if all sources have the same query.
            keys, values: `(N, S, C)` from `project`.
            masks: `(N, M, S)`, 0 to 1 over the source. Masked-out keys keep logit 0, they are not removed.

        Returns:
            What is to be added to the query, `(N, M, L, C)`.
        """
        queries = share(self.wq(query), len(keys))
        return attend(queries, keys, values, masks=masks, mu=self.mu)


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
        """Mine the features of background and foreground, each `(B, Q, C, h, w)`.

        Args:
            features: the queries', `(B, Q, C, h, w)`, or `(1, Q, C, h, w)` if all supports have the same
                queries: what concerns these alone is computed once.
            prior_masks: refined masks of background and foreground, each `(B, Q, h, w)`.
            support_keys, support_values: `(B, S, C)`, the cross attention's projections of all shots'
                positions.
            support_mask: `(B, S)`, the foreground's share at each of them.
        """
        n_episodes, n_queries = features.shape[:2]
        query = features.flatten(-2).transpose(-1, -2)
        flat = query.flatten(0, 1)
        priors = torch.stack(prior_masks, dim=2).flatten(-2).unflatten(0, (n_episodes, -1))
        priors = priors.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # of all supports, for each query
        from_self = self.self_attention(flat, *self.self_attention.project(flat), priors)
        # All queries of an episode attend to the same source, so their positions are rows of one product.
        shares = torch.stack([1 - support_mask, support_mask], dim=1)
        from_cross = self.cross_attention(query.flatten(1, 2), support_keys, support_values, shares)
        from_self = from_self.unflatten(1, (-1, 2)).unflatten(0, (n_episodes, n_queries))
        from_self = from_self.transpose(1, 2).flatten(0, 1)
        from_cross = from_cross.unflatten(2, (n_queries, -1)).transpose(1, 2)
        # Both outputs are the query plus something, and their weights sum to 1, so the query is added once.
        mined = (
            query
            + (PLAIN_WEIGHT * from_self[:, :, index] + beta * from_cross[:, :, index]) / (PLAIN_WEIGHT + beta)
            for index, beta in enumerate((self.beta_bg, self.beta_fg))
        )
        background, foreground = (x.transpose(-1, -2).unflatten(-1, features.shape[-2:]) for x in mined)
        return background, foreground
