"""Configuration keys of training episodes, and what they mean."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from util.config.settings import increasing_pair, key, one_of, real, several, whole
from util.errors import UserError


@dataclass(frozen=True)
class AugmentationRanges:
    """Ranges of the augmentation, sampled uniformly.

    Attributes:
        rotation_deg: maximum rotation in either direction.
        shift_px: maximum shift in either direction along each axis, at 256 x 256.
        shear_deg: maximum shear in either direction (of the vertical axis).
        scale: minimum and maximum isotropic scale; above 1 enlarges.
        elastic_sigma_px: Gaussian that smooths the displacement noise, at 256 x 256.
        elastic_amplitude: factor on the smoothed noise (uniform in -1..1 before smoothing); 0 disables it.
            10 with a sigma of 5 px moves pixels by 0.33 px (standard deviation per axis).
        gamma: minimum and maximum exponent on intensities mapped to 0..1.
        contrast: minimum and maximum factor on the deviation from the slice's mean; (1, 1) disables it.
        brightness: maximum shift of intensities in either direction, in standard deviations of the scan
            (images are z-scored); 0 disables it.
        bias: maximum magnitude of the logarithm of a smooth field of factors (see
            `dataloaders.intensities.sample_bias_field`); 0 disables it. 0.4 is a field that dims to 67 % or
            brightens to 149 % at its extremes.
        noise: maximum standard deviation of Gaussian noise, in standard deviations of the scan; 0 disables
            it.

    Raises:
        UserError: a range is invalid, on construction.
    """

    rotation_deg: float = 5.0
    shift_px: float = 5.0
    shear_deg: float = 5.0
    scale: tuple[float, float] = (0.9, 1.2)
    elastic_sigma_px: float = 5.0
    elastic_amplitude: float = 10.0
    gamma: tuple[float, float] = (0.5, 1.5)
    contrast: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    bias: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        amounts = (
            "rotation_deg",
            "shift_px",
            "shear_deg",
            "elastic_amplitude",
            "brightness",
            "bias",
            "noise",
        )
        for name in amounts:
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)}: must be a finite number of at least 0")
        if not self.shear_deg < 90:
            raise UserError(f"shear_deg={self.shear_deg}: must be below 90")
        if not 0 < self.elastic_sigma_px < math.inf:
            raise UserError(f"elastic_sigma_px={self.elastic_sigma_px}: must be a finite number above 0")
        for name in ("scale", "gamma", "contrast"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise UserError(f"{name}={(low, high)}: must be (minimum, maximum), both finite and above 0")

    @classmethod
    def none(cls) -> "AugmentationRanges":
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
        min_size_px: minimum area of the target in one of the slices, at 256 x 256; scales with `H * W`.
        augmentation: strength of the augmentation.
        use_gt: train on manual labels instead of supervoxels.
        train_labels: with `use_gt`, the labels to train on: the dataset's labels outside the test labels.
        exclude_labels: setting II's test organs, whose slices are never used; empty for setting I.
        exclude_rule: "any": slices with at least one of them are excluded; "all": only those with every one.

    Raises:
        UserError: a value is out of range, or `use_gt` has no labels or excluded ones, on construction.
    """

    seed: int
    n_episodes: int
    n_shots: int = 1
    max_gap: int = 1
    min_size_px: float = 200.0
    augmentation: AugmentationRanges = field(default_factory=AugmentationRanges)
    use_gt: bool = False
    train_labels: tuple[int, ...] = ()
    exclude_labels: tuple[int, ...] = ()
    exclude_rule: str = "any"

    def __post_init__(self) -> None:
        minima = {"seed": 0, "n_episodes": 1, "n_shots": 1, "max_gap": 1, "min_size_px": 1}
        for name, bound in minima.items():
            if not getattr(self, name) >= bound:
                raise UserError(f"{name}={getattr(self, name)}: must be at least {bound}")
        if self.exclude_rule not in ("any", "all"):
            raise UserError(f"exclude_rule={self.exclude_rule}: must be any or all")
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


@dataclass(frozen=True)
class TaskConfig:
    """Keys of training episodes."""

    exclude_rule: str = key(
        "any", one_of("any", "all"), "setting 2 drops slices that contain any, or all, of the excluded organs"
    )
    max_gap: int = key(
        1,
        whole(1),
        "maximum distance, in slices, between consecutive slices of an episode; 1: only neighbours",
    )
    more_sv: tuple[int, ...] = key(
        (), several(whole(1)), "minimum sizes of additional supervoxels to train on, beside `n_sv`"
    )
    gamma: tuple[float, float] = key(
        (0.5, 1.5), increasing_pair(real(0, open_minimum=True)), "range of the intensity exponent"
    )
    rotation_deg: float = key(5.0, real(0, 180), "maximum rotation in either direction")
    shift_px: float = key(5.0, real(0), "maximum shift along each axis, at 256 x 256")
    shear_deg: float = key(5.0, real(0, 45), "maximum shear in either direction")
    scale: tuple[float, float] = key(
        (0.9, 1.2), increasing_pair(real(0, open_minimum=True)), "range of the isotropic scale"
    )
    elastic_amplitude: float = key(
        10.0, real(0), "factor on the smoothed displacement noise of -1 to 1, in px"
    )
    elastic_sigma_px: float = key(5.0, real(0, open_minimum=True), "smoothing of that noise, at 256 x 256")
    contrast: tuple[float, float] = key(
        (1.0, 1.0), increasing_pair(real(0, open_minimum=True)), "range of the factor on the slice's contrast"
    )
    brightness: float = key(
        0.0, real(0), "maximum intensity shift in either direction, in standard deviations of the scan"
    )
    noise: float = key(
        0.0, real(0), "maximum standard deviation of Gaussian noise, in standard deviations of the scan"
    )
    bias: float = key(0.0, real(0), "maximum logarithm of a smooth multiplicative bias field")

    @property
    def augmentation(self) -> AugmentationRanges:
        """Ranges of the augmentation."""
        return AugmentationRanges(
            **{entry.name: getattr(self, entry.name) for entry in fields(AugmentationRanges)}
        )

    def episode_config(self, **more: Any) -> EpisodeConfig:
        """Return the content of episodes; `more` are the fields without a key here."""
        own = {"max_gap": self.max_gap, "exclude_rule": self.exclude_rule}
        return EpisodeConfig(**own, augmentation=self.augmentation, **more)
