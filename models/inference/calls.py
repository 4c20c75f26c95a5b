"""Plan few calls for the requests for slices of a scan."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CPU_PIXELS_PER_DECODING = 256 * 256  # one slice of usual size
MAX_HELD_PIXELS = 1 << 26  # 256 MB

Part = tuple[Hashable, int]  # a request's support key and the number of one of its supports


@dataclass(frozen=True)
class Request:
    """Slices of one scan to segment.

    Attributes:
        slices: `(n,)`, their indices in the scan.
        parts: `(n,)`, the number of the support to use for each slice.
        support_of: returns a prepared support by its number.
        support_key: identifies `support_of`; requests of equal keys share results. None: shares none.
    """

    slices: Tensor
    parts: Tensor
    support_of: Callable[[int], Any]
    support_key: Hashable = None


def split_requests(requests: Sequence[Request], *, n_pixels: int) -> Iterator[list[Request]]:
    """Split requests into groups of successive ones, segmented together.

    Their results are held in memory together: at most `MAX_HELD_PIXELS`, or those of a single request.
    """
    group, n_held = [], 0
    for request in requests:
        n_requested = n_pixels * len(request.slices)
        if group and n_held + n_requested > MAX_HELD_PIXELS:
            yield group
            group, n_held = [], 0
        group.append(request)
        n_held += n_requested
    yield group


def parts_of_slices(request: Request, number: int) -> list[Part]:
    """Return the part that segments each slice of a request.

    Equal parts of several requests share results.
    """
    key = number if request.support_key is None else (request.support_key,)
    return [(key, part) for part in request.parts.tolist()]


def group_by_slice(
    requests: Sequence[Request], parts: Sequence[Sequence[Part]]
) -> dict[int, dict[Part, None]]:
    """Return the parts that segment each slice, in the order of the requests."""
    parts_of: dict[int, dict[Part, None]] = {}
    for request, request_parts in zip(requests, parts, strict=True):
        for index, part in zip(request.slices.tolist(), request_parts, strict=True):
            parts_of.setdefault(index, {})[part] = None
    return parts_of


def best_slices_per_call(device: torch.device) -> int:
    """Return the most efficient number of slices per call for a device.

    One slice fills a CPU's caches; other devices need larger batches.
    """
    return 1 if device.type == "cpu" else 16


def best_pairs_per_decoding(device: torch.device, size_px: tuple[int, int]) -> int:
    """Return how many pairs of slice and support to decode at once on a device.

    Small slices are taken together until they fill a CPU's caches as one of 256 x 256 does.
    """
    if device.type != "cpu":
        return best_slices_per_call(device)
    return max(1, CPU_PIXELS_PER_DECODING // (size_px[0] * size_px[1]))


def split_calls(
    parts_of: Mapping[int, Iterable[Part]], per_call: int
) -> Iterator[tuple[list[Part], list[int]]]:
    """Split pairs of slice and support into calls of equal supports.

    Args:
        parts_of: for each slice the supports that segment it, at least one.
        per_call: maximum number of pairs per call, but a slice's supports always stay together.

    Yields:
        Supports and slices; all of these with all of those.
    """
    slices_of: dict[tuple[Part, ...], list[int]] = {}
    for index, parts in parts_of.items():
        slices_of.setdefault(tuple(parts), []).append(index)
    for parts, slices in slices_of.items():
        step = max(1, per_call // len(parts))
        for start in range(0, len(slices), step):
            yield list(parts), slices[start : start + step]
