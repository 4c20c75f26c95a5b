"""Metrics of a predicted mask, and the score of a volume."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from util.evaluation.surface_distances import measure_surfaces
from util.io.image_io import Geometry

_MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Metric:
    """How a metric is shown and compared.

    Attributes:
        label: column header, with the unit; `{tolerance}` stands for NSD's tolerance.
        n_decimals: shown in tables.
        higher_is_better: whether a larger value is better.
        is_absolute: whether the sign is dropped before averaging.
    """

    label: str
    n_decimals: int = 3
    higher_is_better: bool = True
    is_absolute: bool = False


METRICS = {
    "dice": Metric("Dice"),
    "iou": Metric("IoU"),
    "precision": Metric("precision"),
    "recall": Metric("recall"),
    "nsd": Metric("NSD at {tolerance:g} mm"),
    "hd95_mm": Metric("HD95 (mm)", 1, higher_is_better=False),
    "assd_mm": Metric("ASSD (mm)", 2, higher_is_better=False),
    "volume_error_ml": Metric("|volume error| (ml)", 1, higher_is_better=False, is_absolute=True),
    "volume_error_percent": Metric("|volume error| (%)", 1, higher_is_better=False, is_absolute=True),
}


@dataclass(frozen=True)
class MaskMetrics:
    """Metrics of one predicted mask.

    If both masks are empty, shares are 1 and distances 0. If only one is, shares are 0 and distances the
    diagonal of the scan's volume, so that nothing is undefined.

    Attributes:
        dice, iou, precision, recall: of voxels, 0 to 1.
        nsd: normalised surface Dice, 0 to 1: area of both surfaces within the tolerance.
        nsd_tolerance_mm: that tolerance.
        hd95_mm: 95th percentile of the surface distances.
        assd_mm: average symmetric surface distance.
        true_ml, predicted_ml: volumes in the scored slices.
        volume_error_ml, volume_error_percent: predicted minus true; the share is None without the organ.
        is_missed: the organ is present, but nothing was predicted.
        is_false: the organ is absent, but something was predicted.
    """

    dice: float
    iou: float
    precision: float
    recall: float
    nsd: float
    nsd_tolerance_mm: float
    hd95_mm: float
    assd_mm: float
    true_ml: float
    predicted_ml: float
    volume_error_ml: float
    volume_error_percent: float | None
    is_missed: bool
    is_false: bool


@dataclass(frozen=True)
class ScoredVolume:
    """What a score belongs to: one organ in one query volume.

    Attributes:
        method: `trained`, or a baseline's name.
        protocol: `chunks` (slices that hold the organ, the published protocol) or `all_slices`.
        fold: held-out fold.
        support_id, query_id: scans.
        label, organ: which organ.
        main_support: whether the support is the protocol's.
        n_slices: number of slices segmented and scored.
    """

    method: str
    protocol: str
    fold: int
    support_id: int
    query_id: int
    label: int
    organ: str
    main_support: bool
    n_slices: int


@dataclass(frozen=True)
class VolumeScore(MaskMetrics, ScoredVolume):
    """Score of one organ in one query volume."""

    @property
    def has_organ(self) -> bool:
        """Whether the query shows the organ; without it, a score enters no mean."""
        return self.true_ml > 0


def metric_value(score: VolumeScore, metric: str) -> float:
    """Return a metric of a score, without its sign where only the size matters."""
    value = getattr(score, metric)
    return abs(value) if METRICS[metric].is_absolute else value


def metric_label(metric: str, scores: Iterable[VolumeScore]) -> str:
    """Return a metric's column header.

    Raises ValueError if the scores' tolerances differ.
    """
    tolerances = {score.nsd_tolerance_mm for score in scores}
    if len(tolerances) != 1:
        raise ValueError(f"scores must have one tolerance of NSD, got {sorted(tolerances)} mm")
    return METRICS[metric].label.format(tolerance=tolerances.pop())


def measure_masks(
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    slices: np.ndarray,
    geometry: Geometry,
    nsd_tolerance_mm: float,
) -> MaskMetrics:
    """Compute all metrics of a predicted mask on the segmented slices of a scan.

    Surfaces are those within the span of these slices, at their true distance; its ends are surfaces of both
    masks.

    Args:
        predicted, true: `(n, H, W)`, binary, of the segmented slices.
        slices: `(n,)`, their positions in the scan.
        geometry: of the scan's full grid.
        nsd_tolerance_mm: tolerance of the normalised surface Dice.

    Raises:
        ValueError: the shapes differ.
    """
    dice, iou = dice_and_iou(predicted, true)
    predicted, true = predicted.astype(bool), true.astype(bool)
    n_both, n_predicted, n_true = (int(mask.sum()) for mask in (predicted & true, predicted, true))
    is_equal_empty = n_predicted == n_true == 0
    if n_predicted and n_true:
        masks = [_restore_gaps(mask, slices) for mask in (predicted, true)]
        surfaces = measure_surfaces(*masks, geometry.spacing_mm)
        nsd, hd95_mm, assd_mm = surfaces.nsd(nsd_tolerance_mm), surfaces.hd95_mm, surfaces.assd_mm
    else:
        nsd = float(is_equal_empty)
        hd95_mm = assd_mm = 0.0 if is_equal_empty else _diagonal_mm(geometry)
    voxel_ml = float(np.prod(geometry.spacing_mm)) / _MM3_PER_ML
    return MaskMetrics(
        dice=dice,
        iou=iou,
        precision=n_both / n_predicted if n_predicted else float(is_equal_empty),
        recall=n_both / n_true if n_true else float(is_equal_empty),
        nsd=nsd,
        nsd_tolerance_mm=nsd_tolerance_mm,
        hd95_mm=hd95_mm,
        assd_mm=assd_mm,
        true_ml=n_true * voxel_ml,
        predicted_ml=n_predicted * voxel_ml,
        volume_error_ml=(n_predicted - n_true) * voxel_ml,
        volume_error_percent=100 * (n_predicted - n_true) / n_true if n_true else None,
        is_missed=n_true > 0 and n_predicted == 0,
        is_false=n_true == 0 and n_predicted > 0,
    )


def dice_and_iou(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Compute Dice and intersection over union of two masks of the same shape.

    Returns:
        Dice and intersection over union, 0 to 1; both 1 if both masks are empty.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"masks must have the same shape, got {predicted.shape} and {true.shape}")
    predicted, true = predicted.astype(bool), true.astype(bool)
    both = np.count_nonzero(predicted & true)
    total = np.count_nonzero(predicted) + np.count_nonzero(true)
    if total == 0:
        return 1.0, 1.0
    return 2 * both / total, both / (total - both)


def _restore_gaps(mask: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """Place slices at their distances from the first one; gaps are filled with empty slices."""
    offsets = np.asarray(slices) - np.min(slices)
    restored = np.zeros((offsets.max() + 1, *mask.shape[1:]), dtype=bool)
    restored[offsets] = mask
    return restored


def _diagonal_mm(geometry: Geometry) -> float:
    return float(np.linalg.norm(np.multiply(geometry.shape, geometry.spacing_mm)))
