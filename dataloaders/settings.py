"""Configuration keys of training episodes and of the evaluation."""

from dataclasses import dataclass, fields
from typing import Any

from dataloaders.augmentation_ranges import AugmentationRanges
from dataloaders.episode_config import EpisodeConfig
from util.settings import flag, increasing_pair, key, one_of, optional, real, several, whole


@dataclass(frozen=True)
class TaskConfig:
    """What a training episode is."""

    exclude_rule: str = key(
        "any", one_of("any", "all"), "setting 2 drops slices that contain any, or all, of the excluded organs"
    )
    max_gap: int = key(
        1, whole(1), "most slices from one slice of an episode to the next; 1: only neighbours"
    )
    more_sv: tuple[int, ...] = key(
        (), several(whole(1)), "least sizes of further supervoxels to train on, beside `n_sv`"
    )
    gamma: tuple[float, float] = key(
        (0.5, 1.5), increasing_pair(real(0, open_minimum=True)), "range of the intensity exponent"
    )
    rotation_deg: float = key(5.0, real(0, 180), "largest rotation, either way")
    shift_px: float = key(5.0, real(0), "largest shift along each axis, at 256 x 256")
    shear_deg: float = key(5.0, real(0, 45), "largest shear, either way")
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
        0.0, real(0), "largest shift of intensities, either way, in the scan's deviations"
    )
    noise: float = key(0.0, real(0), "largest deviation of Gaussian noise, in the scan's deviations")
    bias: float = key(0.0, real(0), "largest logarithm of a smooth field that multiplies intensities")

    @property
    def augmentation(self) -> AugmentationRanges:
        """How strongly slices are augmented."""
        return AugmentationRanges(
            **{entry.name: getattr(self, entry.name) for entry in fields(AugmentationRanges)}
        )

    def episode_config(self, **more: Any) -> EpisodeConfig:
        """Say what episodes are made of; `more` are the fields that no key here sets."""
        own = {"max_gap": self.max_gap, "exclude_rule": self.exclude_rule}
        return EpisodeConfig(**own, augmentation=self.augmentation, **more)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated beside the published protocol."""

    all_slices: bool = key(
        True, flag(), "also segment every slice of each query, without a look at where the organ lies"
    )
    every_support: bool = key(True, flag(), "also take every scan of the fold as support in turn")
    baselines: bool = key(
        False, flag(), "also score the untrained network, copied support masks and plain cosine matching"
    )
    support_slices: int = key(
        1, whole(1), "support slices that serve each query slice: the protocol's and its neighbours"
    )
    join_support: str = key(
        "probabilities",
        one_of("probabilities", "shots"),
        "average what each of these slices gives, or take them as the shots of one support",
    )
    query_copies: int = key(
        1,
        whole(1, 5),
        "shifted, scaled and brightened copies of a query slice to average over; never flipped",
    )
    clean_up: bool = key(False, flag(), "keep the largest connected part of each organ, and fill its holes")
    slices_per_call: int | None = key(
        None, optional(whole(1)), "query slices encoded or segmented at once; None: 1 on a CPU, else 16"
    )
    save_predictions: bool = key(True, flag(), "write the predictions as NIfTI files")
