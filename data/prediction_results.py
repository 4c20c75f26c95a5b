"""The segmentation of one scan on its own grid, and how far its sources agree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import nibabel
import numpy as np
import SimpleITK as sitk

from util.evaluation.metrics import dice_and_iou
from util.evaluation.postprocess import THRESHOLD
from util.io.image_io import Geometry, to_sitk

HARM = 0.05  # of mean Dice, above which a support is said to harm


@dataclass(frozen=True)
class Agreement:
    """How far one support's results for one label agree; Dice, 0 to 1.

    Attributes:
        label: the organ.
        support: name of the support.
        with_registration: the network's mask (joined by the U-Net's) and the mask that registration warped;
            None without one of both, or if registration failed.
        with_joint: this support's mask and that of all supports together; None with a single support.
        with_unet: the network's mask and the U-Net's; None without a U-Net.
        between_versions: the network's masks in changed versions of the query; None with a single version.
    """

    label: int
    support: str
    with_registration: float | None
    with_joint: float | None
    with_unet: float | None = None
    between_versions: float | None = None

    @property
    def values(self) -> tuple[float | None, ...]:
        """All of them, in the tables' order."""
        return self.with_registration, self.with_unet, self.between_versions, self.with_joint

    @classmethod
    def measure(
        cls,
        label: int,
        support: str,
        *,
        network: np.ndarray | None,
        warped: np.ndarray | None,
        result: np.ndarray | None,
        joint: np.ndarray,
        **further: float | None,
    ) -> "Agreement":
        """Compare probabilities of one shape.

        They are the network's, the warped mask's, the support's result and the joint one; with a single
        support `result is joint`. None: that source is missing. `further` are the other attributes.
        """
        return cls(
            label,
            support,
            None if network is None or warped is None else overlap(network, warped),
            None if result is None or result is joint else overlap(result, joint),
            **further,
        )


@dataclass(frozen=True)
class SupportScore:
    """How well one support segments another one, whose mask is known; Dice, 0 to 1.

    Attributes:
        label: the organ.
        scan: name of the support that is segmented.
        support: name of the one that segments it.
        alone: Dice of its segmentation; None if it gives none.
        together: Dice of all supports but the segmented one; None if none of them gives any.
        without: the same without this support; None if no other one is left.
    """

    label: int
    scan: str
    support: str
    alone: float | None
    together: float | None
    without: float | None


@dataclass(frozen=True)
class ScanSummary:
    """One scan's entry in the tables.

    Attributes:
        volumes_ml: label -> volume.
        confidence, confidences, agreements, failures, similarities: see `Segmentation`.
    """

    volumes_ml: Mapping[int, float]
    confidence: float
    confidences: Mapping[int, float]
    agreements: Sequence[Agreement]
    failures: Mapping[str, str]
    similarities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The organs of one scan, on its own grid.

    Attributes:
        label_map: `(Z, H, W)` uint8, or uint16 for ids above 255; 0 = background.
        geometry: the grid.
        labels: id -> name of the requested organs.
        confidences: id -> mean probability in the organ's mask, 1/2 to 1; 0 if the mask is empty.
        agreements: one per label and support.
        failures: name of the support -> why its registration failed.
        similarities: name of the support -> squared correlation of scan and registered support, 0 to 1.
        probabilities: id -> `(Z, H, W)` float32, if requested.
        n_slices: network slices that were segmented.
    """

    label_map: np.ndarray
    geometry: Geometry
    labels: Mapping[int, str]
    confidences: Mapping[int, float] = field(default_factory=dict)
    agreements: Sequence[Agreement] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    similarities: Mapping[str, float] = field(default_factory=dict)
    probabilities: Mapping[int, np.ndarray] = field(default_factory=dict)
    n_slices: int = 0

    @property
    def volumes_ml(self) -> dict[int, float]:
        """Volume of each label in ml."""
        voxel_ml = float(np.prod(self.geometry.spacing_mm)) / 1000
        return {label: np.count_nonzero(self.label_map == label) * voxel_ml for label in self.labels}

    @property
    def confidence(self) -> float:
        """Mean of the organs' confidences, times the share of registered supports.

        It is 0 to 1; low means doubtful. Where sources of the joint probability disagree, that is lower.
        """
        n_supports = len({entry.support for entry in self.agreements})
        share = 1 - len(self.failures) / n_supports if n_supports else 1.0
        return float(np.mean(list(self.confidences.values()))) * share

    def summarise(self) -> ScanSummary:
        """Return what remains of interest without the voxels."""
        results = (self.confidences, self.agreements, self.failures, self.similarities)
        return ScanSummary(self.volumes_ml, self.confidence, *results)

    def to_sitk(self) -> sitk.Image:
        """Return the label map as a SimpleITK image."""
        return to_sitk(self.label_map, self.geometry)

    def to_nibabel(self) -> nibabel.Nifti1Image:
        """Return the label map as a nibabel image, its axes (x, y, z)."""
        affine = np.eye(4)
        affine[:3, :3] = self.geometry.axes[:, ::-1] * self.geometry.spacing_mm[::-1]
        affine[:3, 3] = self.geometry.origin_mm
        return nibabel.Nifti1Image(self.label_map.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def overlap(probabilities: np.ndarray, other_probabilities: np.ndarray) -> float:
    """Return the Dice of two masks; 0 if both are empty.

    A scan in which no source finds the organ is doubtful.
    """
    mask, other = probabilities > THRESHOLD, other_probabilities > THRESHOLD
    return float(dice_and_iou(mask, other)[0]) if mask.any() or other.any() else 0.0


def measure_confidence(probabilities: np.ndarray) -> float:
    """Return the mean probability in the mask; 0 if it is empty."""
    inside = probabilities[probabilities > THRESHOLD]
    return float(inside.mean(dtype=np.float64)) if inside.size else 0.0


def sort_by_doubt(summaries: Mapping[str, ScanSummary]) -> list[str]:
    """List scans, the most doubtful first."""
    return sorted(summaries, key=lambda name: summaries[name].confidence)


def describe_doubtful(summaries: Mapping[str, ScanSummary], *, n_named: int = 3) -> str:
    """List the scans to check first, in one line."""
    names = sort_by_doubt(summaries)[:n_named]
    text = ", ".join(f"{name} ({summaries[name].confidence:.2f})" for name in names)
    return f"check the masks of lowest confidence first: {text}"


def describe_supports(scores: Sequence[SupportScore], *, by: str) -> list[str]:
    """List how much each support helps, a line each; `by` names what segments."""
    together = {(score.label, score.scan): score.together for score in scores}
    lines = [f"supports, each segmented from the others by {by}: mean Dice {_mean(together.values())}"]
    for support in dict.fromkeys(score.scan for score in scores):
        own = [score for score in scores if score.support == support]
        line = f"  from {support} alone: {_mean(score.alone for score in own)}"
        others = [score for score in own if score.without is not None and score.together is not None]
        if others:
            together, without = (
                np.mean([getattr(score, name) for score in others]) for name in ("together", "without")
            )
            line += f"; all with it {together:.2f}, without it {without:.2f}"
            line += ": it harms, consider leaving it out" if without - together > HARM else ""
        lines.append(line)
    return lines


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.2f}" if known else "unknown"
