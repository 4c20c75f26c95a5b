"""Attention with plain and masked logits, in pieces that fit the cache.

Written plainly, each softmax over all pairs of positions is stored for the backward pass: four maps of 64 MB
for one attention on a 256 x 256 slice, and sixteen times that at twice the size. Here rows are computed a
piece at a time and again in the backward pass, so memory grows with the positions, not with their pairs.
Source of the recomputation: Dao et al., "FlashAttention", NeurIPS 2022; the coupled softmaxes are HCPMNet's.

Without gradients, on a CPU, each source position is weighted once. Where a mask is 0 or 1, masking changes
nothing but which of two things a source position adds: its plain term, or its value with logit 0, which is
the same for every query. So source positions are sorted into groups on which each mask is constant; a group's
plain terms are summed once, and both attentions are sums of groups. Only positions of soft mask values, the
rim of a support's mask, need separate terms. About half of the products of attention and values are saved,
and two of three softmaxes. Masks are grouped two by two, the classes of one organ: the groups of all masks
together would be many and small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.precision import full_precision, upcast

PLAIN_WEIGHT = 0.5
# Elements of one map that are computed at a time: about the cache on a CPU; on a GPU enough to keep it busy.
PIECE_ELEMENTS_CPU = 1 << 20
PIECE_ELEMENTS_GPU = 1 << 25
MASKS_PER_SOURCE = 2  # background and foreground


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, masks: Tensor, mu: Tensor) -> Tensor:
    """Attend through every mask at once.

    For mask `b` the attention is `(0.5 * softmax(Q K^T) + mu * softmax(Q (b K)^T)) / (0.5 + mu)`, without a
    `1/sqrt(C)` scale. `Q (b K)^T` is `Q K^T` with its columns scaled, so all share one product.

    Args:
        queries: `(N, L, C)`.
        keys, values: `(N, S, C)`, of the queries' dtype; softmaxes are taken in float32 or better.
        masks: `(N, M, S)`, 0 to 1 over the source. Masked-out keys keep logit 0, they are not removed.
        mu: a scalar tensor.

    Returns:
        What each mask's attention gathers, `(N, M, L, C)`, in the queries' dtype. All arguments get gradients
        (once: there is no second derivative).
    """
    if queries.device.type == "cpu" and not torch.is_grad_enabled():
        share = _share(mu, torch.promote_types(queries.dtype, torch.float32))
        return attend_by_groups(queries, keys, values, masks=masks, share=share)
    return _MaskedAttention.apply(queries, keys, values, masks, mu)


class _MaskedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, values: Tensor, masks: Tensor, mu: Tensor) -> Tensor:
        ctx.save_for_backward(queries, keys, values, masks, mu)
        with full_precision(queries):
            logits_of = AttentionLogits(keys)
            gathered = queries.new_empty(len(queries), masks.shape[1], *queries.shape[1:])
            for rows in _pieces(queries, masks):
                plain, masked = _softmaxes(logits_of(queries[:, rows]), masks)
                attention = torch.lerp(plain[:, None], masked, _share(mu, plain.dtype)).to(values.dtype)
                gathered[:, :, rows] = (attention.flatten(1, 2) @ values).unflatten(1, attention.shape[1:3])
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, masks, mu = ctx.saved_tensors
        with full_precision(queries):
            return _gradients(queries, keys, values, masks, mu, gradient, needs_masks=ctx.needs_input_grad[3])


def _gradients(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    masks: Tensor,
    mu: Tensor,
    gradient: Tensor,
    *,
    needs_masks: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of queries, keys, values, masks and mu."""
    wide = torch.promote_types(queries.dtype, torch.float32)
    share = _share(mu, wide)
    logits_of = AttentionLogits(keys)
    grad_queries = torch.empty_like(queries)
    # Transposed operands are copied by products in half precision: the large ones here, once, or not at all.
    value_columns = values.transpose(1, 2).contiguous()
    grad_key_columns = torch.zeros_like(value_columns, dtype=wide)
    grad_value_columns = torch.zeros_like(value_columns, dtype=wide)
    grad_masks = torch.zeros_like(masks, dtype=wide) if needs_masks else None
    grad_share = torch.zeros((), dtype=wide, device=queries.device)
    for rows in _pieces(queries, masks):
        logits = logits_of(queries[:, rows])
        plain, masked = _softmaxes(logits, masks)
        grad_rows = gradient[:, :, rows].flatten(1, 2).to(queries.dtype)
        attention = torch.lerp(plain[:, None], masked, share).to(values.dtype)
        grad_value_columns += grad_rows.transpose(1, 2) @ attention.flatten(1, 2)
        del attention
        grad_attention = (grad_rows @ value_columns).to(wide).unflatten(1, masked.shape[1:3])
        # Softmax's derivative: p * (g - sum(p * g)); the masked one passes through the columns' scale.
        weighted = grad_attention * masked
        mean_masked = weighted.sum(-1, keepdim=True)
        weighted.addcmul_(masked, mean_masked, value=-1).mul_(share)
        if grad_masks is not None:
            grad_masks += torch.einsum("nmls,nls->nms", weighted, logits)
        grad_logits = (weighted * masks[:, :, None]).sum(1)
        grad_plain = grad_attention.sum(1)
        mean_plain = (grad_plain * plain).sum(-1, keepdim=True)
        grad_logits.addcmul_(plain, (grad_plain - mean_plain).mul_(1 - share))
        grad_share += mean_masked.sum() - mean_plain.sum()
        total = grad_logits.sum(-1, keepdim=True)
        grad_logits = grad_logits.to(queries.dtype)
        grad_queries[:, rows] = logits_of.sum_keys(grad_logits, total)
        grad_key_columns += queries[:, rows].transpose(1, 2) @ grad_logits
    grad_mu = (grad_share * PLAIN_WEIGHT / (PLAIN_WEIGHT + mu.to(wide)) ** 2).to(mu.dtype).view(mu.shape)
    if grad_masks is not None:
        grad_masks = grad_masks.to(masks.dtype)
    grad_keys, grad_values = (
        columns.transpose(1, 2).to(keys.dtype) for columns in (grad_key_columns, grad_value_columns)
    )
    return grad_queries, grad_keys, grad_values, grad_masks, grad_mu


def _softmaxes(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax of logits `(N, l, S)`, and of those scaled by each mask `(N, M, l, S)`."""
    return logits.softmax(-1), (logits[:, None] * masks[:, :, None]).softmax(-1)


def _share(mu: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the masked softmax's share of the attention, a scalar."""
    mu = mu.to(dtype).reshape(())
    return mu / (PLAIN_WEIGHT + mu)


def _pieces(queries: Tensor, masks: Tensor) -> Iterator[slice]:
    n_batches, n_rows = queries.shape[:2]
    limit = PIECE_ELEMENTS_CPU if queries.device.type == "cpu" else PIECE_ELEMENTS_GPU
    n_pairs_of_masks = -(-masks.shape[1] // MASKS_PER_SOURCE)
    size = max(1, limit // (n_batches * masks.shape[2] * n_pairs_of_masks))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


class AttentionLogits:
    """Products of queries and keys, exact to the inputs' rounding.

    In half precision a large product would be rounded by more than the softmax forgives. What all keys share
    is therefore subtracted first, and added back in float32; the rounded rest is small.
    """

    def __init__(self, keys: Tensor) -> None:
        self.common = None
        exact = upcast(keys)
        if exact.dtype != keys.dtype:
            self.common = exact.mean(dim=1, keepdim=True)
            keys = (exact - self.common).to(keys.dtype)
        self.keys, self.columns = keys, keys.transpose(1, 2).contiguous()

    def __call__(self, queries: Tensor) -> Tensor:
        """Multiply queries `(N, l, D)` with the keys to logits `(N, l, S)`."""
        logits = queries @ self.columns
        if self.common is None:
            return logits
        return upcast(logits).add_((upcast(queries) * self.common).sum(-1, keepdim=True))

    def sum_keys(self, weights: Tensor, total: Tensor) -> Tensor:
        """Sum the keys, weighted by `(N, l, S)`.

        `total` holds the weights' sums before they were rounded.
        """
        weighted = weights @ self.keys
        return weighted if self.common is None else upcast(weighted).addcmul_(total, self.common)


@dataclass(frozen=True)
class _Terms:
    """A sum of softmax terms: `exp(shift)` times `weighted` and `total`, without over- or underflow."""

    shift: Tensor
    weighted: Tensor
    total: Tensor


def attend_by_groups(
    queries: Tensor, keys: Tensor, values: Tensor, *, masks: Tensor, share: Tensor
) -> Tensor:
    """Attend as `attend` does, without gradients.

    The number of operations depends on the masks' values: for devices that do not wait for them.

    Args:
        queries, keys, values, masks: as there.
        share: the masked softmax's share, a scalar.
    """
    gathered = queries.new_empty(len(queries), masks.shape[1], *queries.shape[1:])
    with full_precision(queries):
        for sample in range(len(queries)):
            parts = masks[sample].split(MASKS_PER_SOURCE)
            sources = [_Source(values[sample], part) for part in parts]
            # A single source's keys are sorted once, instead of each product's columns.
            is_single = len(sources) == 1
            logits_of = AttentionLogits(keys[sample, sources[0].order][None] if is_single else keys[[sample]])
            size = max(1, PIECE_ELEMENTS_CPU // keys.shape[1])
            for start in range(0, queries.shape[1], size):
                rows = slice(start, start + size)
                logits = logits_of(queries[sample, rows][None])[0]
                gathered[sample, :, rows] = torch.cat(
                    [
                        source.gather(logits if is_single else logits[:, source.order], share)
                        for source in sources
                    ]
                )
    return gathered


class _Source:
    """One source with its positions sorted by the values of masks `(M, S)`.

    Attributes:
        order: `(S,)`, the positions in that order.
    """

    def __init__(self, values: Tensor, masks: Tensor) -> None:
        self.n_masks = len(masks)
        is_hard = ((masks == 0) | (masks == 1)).all(dim=0)
        bits = 2 ** torch.arange(self.n_masks, device=masks.device)
        codes = torch.where(is_hard, (masks * bits[:, None]).sum(dim=0).long(), 2**self.n_masks)
        self.order = order = codes.argsort(stable=True)
        counts = torch.bincount(codes, minlength=2**self.n_masks + 1).tolist()
        ends = torch.tensor(counts).cumsum(0).tolist()
        self.groups = {
            code: slice(end - count, end)
            for code, (count, end) in enumerate(zip(counts, ends, strict=True))
            if count
        }
        self.soft = self.groups.get(2**self.n_masks)
        self.values, self.masks = values[order], masks[:, order]
        self.sums = {code: upcast(self.values[group]).sum(dim=0) for code, group in self.groups.items()}

    def gather(self, logits: Tensor, share: Tensor) -> Tensor:
        """Gather through each mask, `(M, l, C)`, by rows of sorted logits `(l, S)`."""
        plain = {code: self._terms(logits[:, group], group) for code, group in self.groups.items()}
        unmasked = _merge(list(plain.values()))
        masked = [_merge(self._masked(index, plain, logits)) for index in range(self.n_masks)]
        return torch.stack([torch.lerp(unmasked, part, share.to(part.dtype)) for part in masked])

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
        mean = upcast(shares.to(self.values.dtype) @ self.values[group])
        return _Terms(logits.amax(dim=1, keepdim=True), total * mean, total)


def _merge(terms: Sequence[_Terms]) -> Tensor:
    """Divide the sum of all terms by their total: `(l, C)`."""
    top = torch.cat([term.shift for term in terms], dim=1).amax(dim=1, keepdim=True)
    weighted, total = 0, 0
    for term in terms:
        factor = (term.shift - top).exp()
        weighted = weighted + factor * term.weighted
        total = total + factor * term.total
    return weighted / total
