"""Segment many slices of a scan with few calls.

Each slice is encoded once, whatever the number of requests, and segmented once with each support; each call
is served by one support.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.inference.segmenters import SliceSegmenter


@dataclass(frozen=True)
class Request:
    """Slices of one scan to segment.

    Attributes:
        slices: `(n,)`, their indices in the scan.
        parts: `(n,)`, which of the request's supports serves each of them.
        support_of: gives a support of the request, prepared, by its number.
        support_key: identifies `support_of`; requests of equal keys share results. None: shares none.
    """

    slices: Tensor
    parts: Tensor
    support_of: Callable[[int], Any]
    support_key: Hashable = None


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
    """Answer several requests for slices of one scan.

    Args:
        segmenter: see `SliceSegmenter`.
        images: the scan's slices, `(Z, 1, h, w)`.
        requests: at least one.
        per_call: most slices encoded or segmented at once.
        device: where the segmenter computes.
        on_encoding: called with the progress before each batch is encoded, and with an empty text at the end.
        on_segmented: called after each call with the number of slices it segmented.

    Yields:
        The foreground's probability in each request's slices, `(n, h, w)` on the CPU, in the requests' order.
    """
    wanted = torch.cat([request.slices for request in requests]).unique()

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(wanted), per_call):
            on_encoding(f"slice {start + 1} of {len(wanted)}")
            yield images[wanted[start : start + per_call]].to(device)
        on_encoding("")

    encoding = segmenter.encode(batches())
    n_left = Counter(request.support_key for request in requests)
    shared: dict[Hashable, dict[tuple[int, int], Tensor]] = {}  # support key -> (part, slice) -> foreground
    for request in requests:
        n_left[request.support_key] -= 1
        known = {} if request.support_key is None else shared.setdefault(request.support_key, {})
        pairs = list(zip(request.parts.tolist(), request.slices.tolist(), strict=True))
        new = [position for position, pair in enumerate(pairs) if pair not in known]
        on_segmented(len(pairs) - len(new))
        for part, chosen in split_calls(request.parts[new], per_call):
            slices = request.slices[new][chosen]
            taken = segmenter.take(encoding, torch.searchsorted(wanted, slices).to(device))
            found = segmenter.segment(request.support_of(part), taken, image_size=tuple(images.shape[-2:]))
            keys = [(part, index) for index in slices.tolist()]
            known.update(zip(keys, found.to(images), strict=True))
            on_segmented(len(chosen))
        yield torch.stack([known[pair] for pair in pairs])
        if n_left[request.support_key] == 0:
            shared.pop(request.support_key, None)


def best_slices_per_call(device: torch.device) -> int:
    """Say how many slices at once serve a device best.

    One fills a CPU's caches; other devices want to be busy.
    """
    return 1 if device.type == "cpu" else 16


def split_calls(parts: Tensor, per_call: int) -> Iterator[tuple[int, Tensor]]:
    """Split slices into calls of one support each.

    Yields the support's number in `parts`, and the positions `(m,)` of at most `per_call` slices.
    """
    for part in parts.unique().tolist():
        for positions in (parts == part).nonzero()[:, 0].split(per_call):
            yield part, positions


def resize_slices(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize slices `(n, h, w)` bilinearly to `(H, W)`, if they differ."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images[:, None], size=tuple(size), mode="bilinear")[:, 0]
