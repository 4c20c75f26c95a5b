"""Segment organs in slices of scans with few calls.

Each slice is encoded once, whatever the number of organs and supports, and segmented once with each support.
A call takes slices of equal supports with all of these: what concerns the slices alone is computed once.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.inference.calls import (
    Part,
    Request,
    best_pairs_per_decoding,
    best_slices_per_call,
    group_by_slice,
    parts_of_slices,
    split_calls,
    split_requests,
)
from models.inference.segmenters import SliceSegmenter, SupportSegmenter
from models.inference.supports import SupportBank
from models.inference.test_time_augmentation import average_over_versions


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
    segmenter: SupportSegmenter,
    queries: Sequence[OrganQuery],
    *,
    device: torch.device,
    bank: SupportBank | None = None,
    n_versions: int = 1,
    per_call: int | None = None,
    on_encoding: Callable[[Hashable, str], None] = lambda query_id, progress: None,
    on_segmented: Callable[[int], None] = lambda n_slices: None,
    on_version: Callable[[int, Tensor], None] = lambda position, probabilities: None,
) -> Iterator[tuple[int, Tensor]]:
    """Segment organs in queries, scan by scan.

    Supports are prepared once, each query slice (and each changed version of it) is encoded once.

    Args:
        segmenter: what segments slices.
        queries: any number, of any scans.
        device: where the segmenter computes.
        bank: holds the prepared supports, also for later calls; None: a bank of single support slices.
        n_versions: see `average_over_versions`.
        per_call: maximum number of slices encoded or segmented at once; None: see `best_slices_per_call`.
        on_encoding: called as in `segment_scan`, with the query scan's id before the progress.
        on_segmented: see `segment_scan`.
        on_version: called as in `average_over_versions`, with the position in `queries` for the index.

    Yields:
        Position in `queries`, and the foreground's probability in the query's slices, `(n, H, W)` on the CPU.
    """
    bank = bank or SupportBank(segmenter, n_slices=1, join="probabilities", device=device)
    for query in queries:
        bank.plan(
            query.support_id,
            query.label,
            images=query.support_images,
            label_map=query.support_labels,
            slices=query.support_slices,
        )
    for query_id in dict.fromkeys(query.query_id for query in queries):
        positions = [i for i, query in enumerate(queries) if query.query_id == query_id]
        segment = partial(
            segment_scan,
            MeanSegmenter(segmenter),
            requests=[_make_request(queries[i], bank) for i in positions],
            per_call=per_call or best_slices_per_call(device),
            device=device,
            on_encoding=partial(on_encoding, query_id),
            on_segmented=on_segmented,
        )
        images = queries[positions[0]].query_images
        note = partial(_note_version, on_version, positions)
        results = average_over_versions(segment, images, n_versions, on_version=note)
        for position, foreground in zip(positions, results, strict=True):
            yield position, resize_slices(foreground, queries[position].size_px)


def _note_version(
    on_version: Callable[[int, Tensor], None], positions: Sequence[int], index: int, probabilities: Tensor
) -> None:
    on_version(positions[index], probabilities)


def segment_scan(
    segmenter: SliceSegmenter,
    images: Tensor,
    requests: Sequence[Request],
    *,
    per_call: int,
    device: torch.device,
    on_encoding: Callable[[str], None],
    on_segmented: Callable[[int], None],
) -> Iterator[Tensor]:
    """Process several requests for slices of one scan.

    Args:
        segmenter: see `SliceSegmenter`.
        images: the scan's slices, `(Z, 1, h, w)`.
        requests: at least one.
        per_call: maximum number of slices encoded at once, and minimum number of pairs of slice and
            support decoded at once.
        device: where the segmenter computes.
        on_encoding: called with the progress before each batch is encoded, and with an empty text at the end.
        on_segmented: called with the number of shared results, and after each call with that of its pairs.

    Yields:
        The foreground's probability in each request's slices, `(n, h, w)` on the CPU, in the requests' order.
    """
    indices = torch.cat([request.slices for request in requests]).unique()

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(indices), per_call):
            on_encoding(f"slice {start + 1} of {len(indices)}")
            yield images[indices[start : start + per_call]].to(device)
        on_encoding("")

    encoding = segmenter.encode(batches())
    take = partial(_take_slices, segmenter, encoding, indices.to(device))
    height, width = images.shape[-2:]
    for group in split_requests(requests, n_pixels=height * width):
        results = _segment_together(
            segmenter,
            take,
            group,
            size=(height, width),
            device=device,
            per_call=per_call,
            on_segmented=on_segmented,
        )
        yield from (result.to(images) for result in results)


def _take_slices(segmenter: SliceSegmenter, encoding: Any, encoded: Tensor, slices: Sequence[int]) -> Any:
    positions = torch.searchsorted(encoded, torch.tensor(slices, device=encoded.device))
    return segmenter.take(encoding, positions)


def _segment_together(
    segmenter: SliceSegmenter,
    take: Callable[[Sequence[int]], Any],
    requests: Sequence[Request],
    *,
    size: tuple[int, int],
    device: torch.device,
    per_call: int,
    on_segmented: Callable[[int], None],
) -> Iterator[Tensor]:
    """Segment the slices of some requests; `take` returns them encoded, see `segment_scan` for the rest."""
    parts = [parts_of_slices(request, number) for number, request in enumerate(requests)]
    support_of = {
        part: partial(request.support_of, part[1])
        for request, request_parts in zip(requests, parts, strict=True)
        for part in request_parts
    }
    parts_of = group_by_slice(requests, parts)
    on_segmented(sum(map(len, parts)) - sum(map(len, parts_of.values())))
    per_decoding = max(per_call, best_pairs_per_decoding(device, size))
    result_of: dict[tuple[Part, int], Tensor] = {}
    for call_parts, slices in split_calls(parts_of, per_decoding):
        states = [support_of[part]() for part in call_parts]
        results = segmenter.segment_each(states, take(slices), image_size=size, per_call=per_decoding)
        for part, result in zip(call_parts, results.cpu(), strict=True):
            result_of.update(zip(((part, index) for index in slices), result, strict=True))
        on_segmented(len(call_parts) * len(slices))
    for request, request_parts in zip(requests, parts, strict=True):
        pairs = zip(request_parts, request.slices.tolist(), strict=True)
        yield torch.stack([result_of[pair] for pair in pairs])


class MeanSegmenter(SliceSegmenter):
    """Segment from several supports by the mean of their probabilities.

    Its supports are sequences of the other segmenter's supports.
    """

    def __init__(self, segmenter: SliceSegmenter) -> None:
        self.segmenter = segmenter

    def encode(self, batches: Iterable[Tensor]) -> Any:
        """Encode slices; see `SliceSegmenter`."""
        return self.segmenter.encode(batches)

    def take(self, encoding: Any, positions: Tensor) -> Any:
        """Select encoded slices; see `SliceSegmenter`."""
        return self.segmenter.take(encoding, positions)

    def segment(self, support: Sequence[Any], encoding: Any, *, image_size: tuple[int, int]) -> Tensor:
        """Segment slices; see `SliceSegmenter`."""
        results = [self.segmenter.segment(member, encoding, image_size=image_size) for member in support]
        return results[0] if len(results) == 1 else torch.stack(results).mean(dim=0)

    def segment_each(
        self, supports: Sequence[Sequence[Any]], encoding: Any, *, image_size: tuple[int, int], per_call: int
    ) -> Tensor:
        """Segment slices from several groups of supports; see `SliceSegmenter`.

        A support that belongs to several groups is used once.
        """
        members = {id(member): member for group in supports for member in group}
        position_of = {key: position for position, key in enumerate(members)}
        results = self.segmenter.segment_each(
            list(members.values()), encoding, image_size=image_size, per_call=per_call
        )
        groups = [results[[position_of[id(member)] for member in group]] for group in supports]
        return torch.stack([group[0] if len(group) == 1 else group.mean(dim=0) for group in groups])


def resize_slices(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize slices `(n, h, w)` bilinearly to `(H, W)`, if they differ."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images[:, None], size=tuple(size), mode="bilinear")[:, 0]


def _make_request(query: OrganQuery, bank: SupportBank) -> Request:
    supports = partial(bank.supports, query.support_id, query.label)
    return Request(query.slices, query.parts, supports, support_key=(query.support_id, query.label))
