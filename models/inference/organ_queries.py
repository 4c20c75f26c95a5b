"""Segment one organ each in query scans, with the support slices of the protocol."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from models.inference.scan import Request, best_slices_per_call, resize_slices, segment_scan
from models.inference.segmenters import Segmenter
from models.inference.supports import MeanSegmenter, SupportBank


@dataclass(frozen=True)
class OrganQuery:
    """An organ to segment in slices of a query scan.

    Attributes:
        support_id, query_id: identify the scans; those of equal ids share encodings.
        label: the organ.
        support_images: `(Z, 1, h, w)`.
        support_labels: `(Z, h, w)`, whole numbers.
        support_slices: the support's slice for each part.
        query_images: `(Z', 1, h, w)`.
        slices: `(n,)`, the query slices to segment.
        parts: `(n,)`, for each of them an index into `support_slices`.
        size_px: `(H, W)` of the result.
    """

    support_id: int
    query_id: Hashable
    label: int
    support_images: Tensor
    support_labels: Tensor
    support_slices: Sequence[int]
    query_images: Tensor
    slices: Tensor
    parts: Tensor
    size_px: tuple[int, int]


def segment_queries(
    segmenter: Segmenter, queries: Sequence[OrganQuery], *, device: torch.device
) -> list[Tensor]:
    """Segment organs in queries; each scan's slices are encoded once.

    Args:
        segmenter: what segments slices.
        queries: any number, of any scans.
        device: where the segmenter computes.

    Returns:
        For each query the foreground's probability in its slices, `(n, H, W)` on the CPU.
    """
    bank = SupportBank(segmenter, n_slices=1, join="probabilities", device=device)
    for query in queries:
        bank.plan(
            query.support_id,
            query.label,
            images=query.support_images,
            label_map=query.support_labels,
            chosen=query.support_slices,
        )
    found: dict[int, Tensor] = {}
    for query_id in dict.fromkeys(query.query_id for query in queries):
        positions = [i for i, query in enumerate(queries) if query.query_id == query_id]
        results = segment_scan(
            MeanSegmenter(segmenter),
            queries[positions[0]].query_images,
            [_make_request(queries[i], bank) for i in positions],
            per_call=best_slices_per_call(device),
            device=device,
            on_encoding=lambda _: None,
            on_segmented=lambda _: None,
        )
        found.update(zip(positions, results, strict=True))
    return [resize_slices(found[i], query.size_px) for i, query in enumerate(queries)]


def _make_request(query: OrganQuery, bank: SupportBank) -> Request:
    supports = partial(bank.supports, query.support_id, query.label)
    return Request(query.slices, query.parts, supports, support_key=(query.support_id, query.label))
