"""Prepare supports from slices of scans, and cache them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.inference.segmenters import SupportSegmenter

SUPPORT_COMBINATIONS = ("probabilities", "shots")

Slices = tuple[int, ...]


def nearest_slices(candidates: Sequence[int], reference: int, n: int) -> Slices:
    """Select the `n` candidates nearest to a reference slice, in order.

    Of two equally near ones the first is taken. All are taken if there are fewer.
    """
    return tuple(sorted(sorted(candidates, key=lambda index: (abs(index - reference), index))[:n]))


@dataclass(frozen=True)
class _ScanPlan:
    """The requested supports of one scan.

    Attributes:
        images: `(Z, 1, h, w)`.
        label_map: `(Z, h, w)`.
        groups: for each label and part the supports used for it together, each a tuple of slices.
    """

    images: Tensor
    label_map: Tensor
    groups: dict[int, list[list[Slices]]] = field(default_factory=dict)


class SupportBank:
    """Cache of the prepared supports of several scans and organs.

    A scan's supports are prepared together when the first of them is requested: each slice is encoded once,
    each support prepared once, and only the supports are kept.

    Args:
        segmenter: what prepares them.
        n_slices: support slices used for a part: the selected one and its nearest neighbours among those that
            contain the organ, or all of these if they are fewer.
        join: `probabilities` makes each of them a support of its own, for a `MeanSegmenter`; `shots` makes
            them the shots of one support.
        device: where the segmenter computes.

    Raises:
        ValueError: `n_slices` is below 1, or `join` is none of these.
    """

    def __init__(
        self, segmenter: SupportSegmenter, *, n_slices: int, join: str, device: torch.device
    ) -> None:
        if n_slices < 1 or join not in SUPPORT_COMBINATIONS:
            raise ValueError(
                f"n_slices must be at least 1 and join one of {SUPPORT_COMBINATIONS}, "
                f"got {n_slices} and {join!r}"
            )
        self._segmenter = segmenter
        self._n_slices, self._join, self._device = n_slices, join, device
        self._plans: dict[int, _ScanPlan] = {}
        self._states: dict[int, dict[tuple[int, Slices], Any]] = {}

    def plan(
        self, scan_id: int, label: int, *, images: Tensor, label_map: Tensor, slices: Sequence[int]
    ) -> None:
        """Register supports that will be requested; nothing is computed yet.

        Registering one again changes nothing. Plan all organs of a scan before requesting the first support.

        Args:
            scan_id, label: the support scan and the organ.
            images: the scan's slices, `(Z, 1, h, w)`.
            label_map: `(Z, h, w)`, whole numbers.
            slices: the support slice of each part.
        """
        groups = self._plans.setdefault(scan_id, _ScanPlan(images, label_map)).groups
        if label not in groups:
            candidates = (label_map == label).flatten(1).any(dim=1).nonzero()[:, 0].tolist()
            groups[label] = [self._group(nearest_slices(candidates, z, self._n_slices)) for z in slices]

    def supports(self, scan_id: int, label: int, part: int) -> list[Any]:
        """Return the prepared supports of a part, in the order of their slices."""
        plan = self._plans[scan_id]
        if scan_id not in self._states:
            self._states[scan_id] = self._prepare(plan)
        return [self._states[scan_id][label, slices] for slices in plan.groups[label][part]]

    def _group(self, slices: Slices) -> list[Slices]:
        return [slices] if self._join == "shots" else [(index,) for index in slices]

    def _prepare(self, plan: _ScanPlan) -> dict[tuple[int, Slices], Any]:
        planned = [
            (label, slices) for label, parts in plan.groups.items() for group in parts for slices in group
        ]
        # One at a time, so that a slice's encoding does not depend on which others are requested.
        encodings = {
            index: self._segmenter.encode([plan.images[index : index + 1].to(self._device)])
            for index in sorted({index for _, slices in planned for index in slices})
        }
        states = {}
        for label, slices in dict.fromkeys(planned):
            masks = (plan.label_map[list(slices)] == label).float().to(self._device)
            encoding = self._segmenter.join([encodings[index] for index in slices])
            states[label, slices] = self._segmenter.prepare(encoding, masks)
        return states
