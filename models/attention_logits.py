"""Attention's logits: products of queries and keys."""

from torch import Tensor

from models.precision import widen


class AttentionLogits:
    """Products of queries and keys, exact to the inputs' rounding.

    In half precision a large product would be rounded by more than the softmax forgives. What all keys share
    is therefore taken out first, and comes back in float32; the rounded rest is small.
    """

    def __init__(self, keys: Tensor) -> None:
        self.common = None
        exact = widen(keys)
        if exact.dtype != keys.dtype:
            self.common = exact.mean(dim=1, keepdim=True)
            keys = (exact - self.common).to(keys.dtype)
        self.keys, self.columns = keys, keys.transpose(1, 2).contiguous()

    def __call__(self, queries: Tensor) -> Tensor:
        logits = queries @ self.columns
        if self.common is None:
            return logits
        return widen(logits).add_((widen(queries) * self.common).sum(-1, keepdim=True))

    def weigh_keys(self, weights: Tensor, total: Tensor) -> Tensor:
        """Sum the keys with weights `(N, l, S)`.

        `total` holds the weights' sums before they were rounded.
        """
        weighed = weights @ self.keys
        return weighed if self.common is None else widen(weighed).addcmul_(total, self.common)
