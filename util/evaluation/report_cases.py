"""Record what a report shows of each query: pictures and Dice by slice."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from util.evaluation.metrics import VolumeScore, dice_and_iou
from util.io.image_io import Geometry
from util.io.slice_pictures import (
    display_slice,
    display_spacing_mm,
    display_transform,
    encode_slice,
    fill_path,
    find_window,
    outline_path,
)

_ID_LENGTH = 12


@dataclass(frozen=True)
class OrganVolume:
    """A scan with the mask of one organ.

    Attributes:
        scan_id: its id.
        images: `(Z, h, w)`, at any slice size.
        mask: `(Z, H, W)`, binary, at full size.
        geometry: of the full-size grid.
    """

    scan_id: int
    images: np.ndarray
    mask: np.ndarray
    geometry: Geometry


@dataclass(frozen=True)
class View:
    """A slice as it is displayed.

    Attributes:
        image: id of the picture in `Cases.images`.
        size_px: height and width.
        spacing_mm: `(y, x)`.
        window: x, y, width and height in px of the detail to enlarge.
    """

    image: str
    size_px: tuple[int, int]
    spacing_mm: tuple[float, float]
    window: tuple[int, int, int, int]


@dataclass(frozen=True)
class PriorMask:
    """Where the network is certain of the organ before it segments a slice.

    Attributes:
        fill: exactly its pixels, as an SVG path.
        area_share: of the slice, 0 to 1.
    """

    fill: str
    area_share: float


@dataclass(frozen=True)
class SlicePair:
    """A query slice and its support slice; masks are SVG paths.

    Attributes:
        title: why this slice is shown.
        slice_idx, support_slice_idx: positions in the scans.
        query, support: the slices.
        support_outline, truth_outline, prediction_outline: outlines of masks.
        hits, false_positives, false_negatives: exactly the pixels of the query.
        prior: the network's prior mask of the organ; None if it was not recorded.
    """

    title: str
    slice_idx: int
    support_slice_idx: int
    query: View
    support: View
    support_outline: str
    truth_outline: str
    prediction_outline: str
    hits: str
    false_positives: str
    false_negatives: str
    prior: PriorMask | None = None


@dataclass(frozen=True)
class SliceDice:
    """Dice of one slice.

    Attributes:
        slice_idx: position in the query.
        support_slice_idx: position of its support slice.
        dice: None if neither truth nor prediction shows the organ.
    """

    slice_idx: int
    support_slice_idx: int
    dice: float | None


@dataclass(frozen=True)
class Case:
    """One organ of a query, segmented by the method whose predictions are kept.

    Attributes:
        score: its metrics.
        pairs: the slices to show; the first has the organ's largest section.
        slices: Dice of each segmented slice.
    """

    score: VolumeScore
    pairs: tuple[SlicePair, ...]
    slices: tuple[SliceDice, ...]


@dataclass
class Cases:
    """Cases, and the pictures that they share.

    Attributes:
        cases: in order.
        images: id -> data URI.
    """

    cases: list[Case] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        score: VolumeScore,
        prediction: np.ndarray,
        *,
        query: OrganVolume,
        support: OrganVolume,
        slices: np.ndarray,
        support_slices: np.ndarray,
    ) -> None:
        """Record a case.

        Args:
            score: of the prediction.
            prediction: `(n, H, W)`, binary.
            query, support: the scans, with truth and annotation.
            slices: `(n,)`, positions of the predicted slices in the query.
            support_slices: `(n,)`, position of the support slice of each.
        """
        truth = query.mask[slices].astype(bool)
        prediction = prediction.astype(bool)
        slice_dice = []
        for n, (predicted, true) in enumerate(zip(prediction, truth, strict=True)):
            is_shown = predicted.any() or true.any()
            dice = dice_and_iou(predicted, true)[0] if is_shown else None
            slice_dice.append(SliceDice(int(slices[n]), int(support_slices[n]), dice))
        pairs = tuple(
            self._make_pair(title, prediction[n], query, support, slice_dice[n])
            for title, n in _choose_slices(prediction, truth)
        )
        self.cases.append(Case(score, pairs, tuple(slice_dice)))

    @classmethod
    def join(cls, parts: Iterable["Cases"]) -> "Cases":
        """Join cases, such as those of several ranks or folds."""
        joined = cls()
        for part in parts:
            joined.cases += part.cases
            joined.images.update(part.images)
        return joined

    def _make_pair(
        self, title: str, predicted: np.ndarray, query: OrganVolume, support: OrganVolume, at: SliceDice
    ) -> SlicePair:
        transform = display_transform(query.geometry)
        truth = display_slice(query.mask[at.slice_idx].astype(bool), transform)
        predicted = display_slice(predicted, transform)
        support_transform = display_transform(support.geometry)
        annotated = display_slice(support.mask[at.support_slice_idx].astype(bool), support_transform)
        return SlicePair(
            title=title,
            slice_idx=at.slice_idx,
            support_slice_idx=at.support_slice_idx,
            query=self._view(query, at.slice_idx, truth | predicted, transform),
            support=self._view(support, at.support_slice_idx, annotated, support_transform),
            support_outline=outline_path(annotated),
            truth_outline=outline_path(truth),
            prediction_outline=outline_path(predicted),
            hits=fill_path(truth & predicted),
            false_positives=fill_path(predicted & ~truth),
            false_negatives=fill_path(truth & ~predicted),
        )

    def _view(self, volume: OrganVolume, slice_idx: int, mask: np.ndarray, transform: np.ndarray) -> View:
        data = encode_slice(display_slice(volume.images[slice_idx], transform))
        key = hashlib.sha256(data.encode()).hexdigest()[:_ID_LENGTH]
        self.images[key] = data
        spacing_mm = display_spacing_mm(volume.geometry, transform)
        return View(key, mask.shape, spacing_mm, find_window(mask))


def group_by_organ(cases: Iterable[Case]) -> list[list[Case]]:
    """Group cases by protocol and organ, each group worst first.

    Queries without the organ are left out.
    """
    groups: dict[tuple[str, int], list[Case]] = {}
    for case in sorted(cases, key=lambda case: (case.score.label, case.score.dice)):
        if case.score.has_organ:
            groups.setdefault((case.score.protocol, case.score.label), []).append(case)
    return list(groups.values())


def choose_cases(cases: Iterable[Case]) -> list[tuple[str, Case]]:
    """Choose the cases of lowest, median and highest Dice, worst first.

    Of an even number the lower median counts. Titles join if fewer than three cases are left.
    """
    ranked = sorted(cases, key=lambda case: case.score.dice)
    if not ranked:
        return []
    titles: dict[int, list[str]] = {}
    for title, n in (("worst", 0), ("median", (len(ranked) - 1) // 2), ("best", len(ranked) - 1)):
        titles.setdefault(n, []).append(title)
    return [(" and ".join(names), ranked[n]) for n, names in titles.items()]


def add_prior_masks(case: Case, masks: Sequence[np.ndarray], geometry: Geometry) -> Case:
    """Return a case with the prior masks of its pairs.

    Args:
        case: any.
        masks: `(H, W)` at full size, binary, one for each pair.
        geometry: of the query.
    """
    transform = display_transform(geometry)
    priors = [PriorMask(fill_path(display_slice(mask, transform)), float(mask.mean())) for mask in masks]
    pairs = (replace(pair, prior=prior) for pair, prior in zip(case.pairs, priors, strict=True))
    return replace(case, pairs=tuple(pairs))


def _choose_slices(prediction: np.ndarray, truth: np.ndarray) -> Sequence[tuple[str, int]]:
    """Choose the largest section of the organ, and the slice with most wrong voxels."""
    areas = truth.sum(axis=(1, 2))
    areas = areas if areas.any() else prediction.sum(axis=(1, 2))
    largest = int(areas.argmax()) if areas.any() else len(areas) // 2
    wrong = int((prediction ^ truth).sum(axis=(1, 2)).argmax())
    if wrong == largest:
        return [("largest section of the organ, and most wrong voxels", largest)]
    return [("largest section of the organ", largest), ("most wrong voxels", wrong)]
