"""Configuration keys and content of training episodes."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataloaders.episode_index import EXCLUDE_RULES
from util.config.settings import Amount, Count, Counts, Positive, Range, Settings, key
from util.errors import UserError


class AugmentationRanges(Settings):
    """Ranges of the augmentation, sampled uniformly.

    The elastic amplitude is a factor on smoothed noise, uniform in -1..1 before smoothing: 10 with a sigma of
    5 px moves pixels by 0.33 px (standard deviation per axis). A bias of 0.4 (see
    `dataloaders.intensities.sample_bias_field`) dims to 67 % or brightens to 149 % at its extremes.
    """

    gamma: Range = key((0.5, 1.5), "range of the exponent on intensities mapped to 0..1")
    rotation_deg: float = key(5.0, "maximum rotation in either direction", ge=0, le=180)
    shift_px: Amount = key(5.0, "maximum shift in either direction along each axis, at 256 x 256")
    shear_deg: float = key(5.0, "maximum shear in either direction, of the vertical axis", ge=0, le=45)
    scale: Range = key((0.9, 1.2), "range of the isotropic scale; above 1 enlarges")
    elastic_amplitude: Amount = key(
        10.0, "factor on the smoothed displacement noise of -1 to 1, in px; 0: none"
    )
    elastic_sigma_px: Positive = key(5.0, "Gaussian that smooths this noise, at 256 x 256")
    contrast: Range = key((1.0, 1.0), "range of the factor on the deviation from the slice's mean")
    brightness: Amount = key(
        0.0, "maximum intensity shift in either direction, in standard deviations of the scan"
    )
    noise: Amount = key(
        0.0, "maximum standard deviation of Gaussian noise, in standard deviations of the scan"
    )
    bias: Amount = key(0.0, "maximum magnitude of the logarithm of a smooth field of factors")

    @classmethod
    def disabled(cls) -> "AugmentationRanges":
        """Return the ranges that change nothing."""
        return cls(rotation_deg=0, shift_px=0, shear_deg=0, scale=(1, 1), elastic_amplitude=0, gamma=(1, 1))


@dataclass(frozen=True)
class EpisodeConfig:
    """Content of the episodes.

    Attributes:
        seed: of the episodes, each a function of seed and index; at least 0.
        n_episodes: length of the data set.
        n_shots: support slices per episode.
        max_gap: maximum step between neighbouring slices of an episode, constant within it; 1: consecutive.
        n_half_size: the first episodes, whose slices have half the height and width.
        min_size_px: minimum area of the target in one of the slices, at 256 x 256; scales with `H * W`.
        augmentation: strength of the augmentation.
        use_gt: train on manual labels instead of supervoxels.
        train_labels: with `use_gt`, the labels to train on: the dataset's labels outside the test labels.
        exclude_labels: setting II's test organs, whose slices are never used; empty for setting I.
        exclude_rule: which of their slices, one of `EXCLUDE_RULES`.

    Raises:
        UserError: a value is out of range, or `use_gt` has no labels or excluded ones, on construction.
    """

    seed: int
    n_episodes: int
    n_shots: int = 1
    max_gap: int = 1
    n_half_size: int = 0
    min_size_px: float = 200.0
    augmentation: AugmentationRanges = field(default_factory=AugmentationRanges)
    use_gt: bool = False
    train_labels: tuple[int, ...] = ()
    exclude_labels: tuple[int, ...] = ()
    exclude_rule: str = "any"

    def __post_init__(self) -> None:
        minima = {"seed": 0, "n_episodes": 1, "n_shots": 1, "max_gap": 1, "n_half_size": 0, "min_size_px": 1}
        for name, bound in minima.items():
            if not getattr(self, name) >= bound:
                raise UserError(f"{name}={getattr(self, name)}: must be at least {bound}")
        if self.exclude_rule not in EXCLUDE_RULES:
            raise UserError(f"exclude_rule={self.exclude_rule}: must be {' or '.join(EXCLUDE_RULES)}")
        if self.use_gt and not self.train_labels:
            raise UserError("use_gt=True: no label is left to train on; remove some from test_label")
        if any(label < 1 for label in (*self.train_labels, *self.exclude_labels)):
            raise UserError(
                f"train_labels={self.train_labels}, exclude_labels={self.exclude_labels}: must be at least 1"
            )

    @property
    def needs_labels(self) -> bool:
        """Whether the scans must be loaded with label maps."""
        return self.use_gt or bool(self.exclude_labels)

    @property
    def needs_supervoxels(self) -> bool:
        """Whether the scans must be loaded with supervoxels."""
        return not self.use_gt


class TaskConfig(AugmentationRanges):
    """Keys of training episodes, the ranges of their augmentation among them."""

    exclude_rule: Literal[tuple(EXCLUDE_RULES)] = key(
        "any", "setting 2 drops slices that contain any, or all, of the excluded organs"
    )
    max_gap: Count = key(
        1, "maximum distance, in slices, between consecutive slices of an episode; 1: only neighbours"
    )
    more_sv: Counts = key((), "minimum sizes of additional supervoxels to train on, beside `n_sv`")
    half_size_share: float = key(
        0.0,
        "share of the steps, the first ones, with slices of half the height and width, which train faster "
        "(progressive resizing); 0: none",
        ge=0,
        lt=1,
    )

    @property
    def augmentation(self) -> AugmentationRanges:
        """Ranges of the augmentation."""
        return AugmentationRanges(**{name: getattr(self, name) for name in AugmentationRanges.model_fields})

    def episode_config(self, **values: Any) -> EpisodeConfig:
        """Return the content of episodes; `values` are the fields without a key here."""
        return EpisodeConfig(
            max_gap=self.max_gap, exclude_rule=self.exclude_rule, augmentation=self.augmentation, **values
        )
