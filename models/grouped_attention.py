"""The coupled attentions without gradients, each source position weighed once.

Where a mask is 0 or 1, masking changes nothing but which of two things a source position adds: its plain
term, or its value with logit 0, which is the same for every query. So source positions are sorted into groups
on which each mask is constant; a group's plain terms are summed once, and both attentions are sums of groups.
Only positions of soft mask values, the rim of a support's mask, need terms of their own. About half of the
products of attention and values are saved, and two of three softmaxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention_logits import AttentionLogits
from models.precision import full_precision, widen

PIECE_ELEMENTS = 1 << 20  # of one map of rows and source positions; about the cache


@dataclass(frozen=True)
class _Terms:
    """A sum of softmax terms: `exp(shift) * weighed` and `exp(shift) * total`, without over- or underflow."""

    shift: Tensor
    weighed: Tensor
    total: Tensor


def attend_by_groups(
    queries: Tensor, keys: Tensor, values: Tensor, *, masks: Tensor, share: Tensor
) -> Tensor:
    """Attend as `masked_attention.attend` does, without gradients.

    The number of operations depends on the masks' values: for devices that do not wait for them.

    Args:
        queries, keys, values, masks: as there.
        share: the masked softmax's share, a scalar.
    """
    gathered = queries.new_empty(len(queries), masks.shape[1], *queries.shape[1:])
    with full_precision(queries):
        for sample in range(len(queries)):
            one = _Source(keys[sample], values[sample], masks[sample])
            size = max(1, PIECE_ELEMENTS // keys.shape[1])
            for start in range(0, queries.shape[1], size):
                rows = slice(start, start + size)
                plain, masked = one.gather(queries[sample, rows])
                for index, of_mask in enumerate(masked):
                    gathered[sample, index, rows] = torch.lerp(plain, of_mask, share.to(plain.dtype))
    return gathered


class _Source:
    """One source with its positions sorted by what the masks say of them."""

    def __init__(self, keys: Tensor, values: Tensor, masks: Tensor) -> None:
        self.n_masks = len(masks)
        is_hard = ((masks == 0) | (masks == 1)).all(dim=0)
        bits = 2 ** torch.arange(self.n_masks, device=masks.device)
        codes = torch.where(is_hard, (masks * bits[:, None]).sum(dim=0).long(), 2**self.n_masks)
        order = codes.argsort(stable=True)
        counts = torch.bincount(codes, minlength=2**self.n_masks + 1).tolist()
        ends = torch.tensor(counts).cumsum(0).tolist()
        self.groups = {
            code: slice(end - count, end)
            for code, (count, end) in enumerate(zip(counts, ends, strict=True))
            if count
        }
        self.soft = self.groups.get(2**self.n_masks)
        self.logits_of = AttentionLogits(keys[None, order])
        self.values, self.masks = values[order], masks[:, order]
        self.sums = {code: widen(self.values[group]).sum(dim=0) for code, group in self.groups.items()}

    def gather(self, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Give what rows of queries `(l, C)` gather plainly, and through each mask."""
        logits = self.logits_of(queries[None])[0]
        plain = {code: self._terms(logits[:, group], group) for code, group in self.groups.items()}
        return _merge(list(plain.values())), [
            _merge(self._masked(index, plain, logits)) for index in range(self.n_masks)
        ]

    def _masked(self, index: int, plain: dict[int, _Terms], logits: Tensor) -> list[_Terms]:
        terms = []
        for code, group in self.groups.items():
            if group is self.soft:
                terms.append(self._terms(logits[:, group] * self.masks[index, group], group))
            elif code >> index & 1:
                terms.append(plain[code])
            else:  # masked out: logit 0
                zero = logits.new_zeros(len(logits), 1)
                terms.append(_Terms(zero, self.sums[code], zero + (group.stop - group.start)))
        return terms

    def _terms(self, logits: Tensor, group: slice) -> _Terms:
        # PyTorch's softmax is several times as fast as its exponential; the total is in its largest share.
        shares = logits.softmax(dim=1)
        total = 1 / shares.amax(dim=1, keepdim=True)
        mean = widen(shares.to(self.values.dtype) @ self.values[group])
        return _Terms(logits.amax(dim=1, keepdim=True), total * mean, total)


def _merge(terms: Sequence[_Terms]) -> Tensor:
    """Divide the sum of all terms by their total: `(l, C)`."""
    top = torch.cat([one.shift for one in terms], dim=1).amax(dim=1, keepdim=True)
    weighed, total = 0, 0
    for one in terms:
        factor = (one.shift - top).exp()
        weighed = weighed + factor * one.weighed
        total = total + factor * one.total
    return weighed / total
