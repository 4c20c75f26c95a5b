"""Say how strongly training slices are augmented."""

import math
from dataclasses import dataclass

from util.errors import UserError


@dataclass(frozen=True)
class AugmentationRanges:
    """How strongly training slices are changed; every value is drawn uniformly.

    Attributes:
        rotation_deg: largest rotation either way.
        shift_px: largest shift either way along each axis, at 256 x 256.
        shear_deg: largest shear either way (of the vertical axis).
        scale: smallest and largest isotropic scale; above 1 enlarges.
        elastic_sigma_px: Gaussian that smooths the displacement noise, at 256 x 256.
        elastic_amplitude: factor on the smoothed noise (uniform in -1..1 before smoothing); 0 switches it
            off. 10 with a sigma of 5 px moves pixels by 0.33 px (standard deviation per axis).
        gamma: smallest and largest exponent on intensities mapped to 0..1.
        contrast: smallest and largest factor on the deviation from the slice's mean; (1, 1) switches it off.
        brightness: largest shift of intensities either way, in standard deviations of the scan (images are
            z-scored); 0 switches it off.
        bias: largest magnitude of the logarithm of a smooth field of factors (see
            `dataloaders.intensities.sample_bias_field`); 0 switches it off. 0.4 is a field that dims to
            67 % or brightens to 149 % where it is strongest.
        noise: largest standard deviation of Gaussian noise, in standard deviations of the scan; the actual
            one lies in 0..noise; 0 switches it off.

    Raises:
        UserError: a range that cannot be drawn from, on construction.
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
                raise UserError(f"{name}={(low, high)}: must be (smallest, largest), both finite and above 0")

    @classmethod
    def none(cls) -> "AugmentationRanges":
        """Return the ranges that change nothing."""
        return cls(rotation_deg=0, shift_px=0, shear_deg=0, scale=(1, 1), elastic_amplitude=0, gamma=(1, 1))
