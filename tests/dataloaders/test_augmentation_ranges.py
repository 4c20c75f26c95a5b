"""Ranges of the augmentation: defaults, and what is refused."""

import pytest

from dataloaders.episode_settings import AugmentationRanges
from util.errors import UserError


@pytest.mark.parametrize("ranges", [AugmentationRanges(), AugmentationRanges.none()])
def test_only_gamma_changes_intensities_unless_requested(ranges):
    assert (ranges.contrast, ranges.brightness, ranges.bias, ranges.noise) == ((1, 1), 0, 0, 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rotation_deg": -1}, "rotation_deg=-1: must be a finite number of at least 0"),
        ({"shift_px": float("nan")}, "shift_px=nan"),
        ({"shear_deg": 90}, "shear_deg=90: must be below 90"),
        ({"elastic_sigma_px": 0}, "elastic_sigma_px=0: must be a finite number above 0"),
        ({"scale": (1.2, 0.9)}, r"scale=\(1.2, 0.9\): must be \(minimum, maximum\)"),
        ({"gamma": (0, 1)}, r"gamma=\(0, 1\)"),
        ({"contrast": (1.5, 0.5)}, r"contrast=\(1.5, 0.5\): must be \(minimum, maximum\)"),
        ({"contrast": (0, 1)}, r"contrast=\(0, 1\): .* both finite and above 0"),
        ({"brightness": -0.1}, "brightness=-0.1: must be a finite number of at least 0"),
        ({"noise": float("inf")}, "noise=inf: must be a finite number of at least 0"),
        ({"bias": float("nan")}, "bias=nan: must be a finite number of at least 0"),
    ],
)
def test_ranges_that_cannot_be_drawn_from_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        AugmentationRanges(**setting)
