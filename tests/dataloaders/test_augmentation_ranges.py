"""Ranges of the augmentation: defaults, and what is refused."""

import pytest

from dataloaders.episode_settings import AugmentationRanges
from util.config.settings import parse_values
from util.errors import UserError


@pytest.mark.parametrize("ranges", [AugmentationRanges(), AugmentationRanges.disabled()])
def test_only_gamma_changes_intensities_unless_requested(ranges):
    assert (ranges.contrast, ranges.brightness, ranges.bias, ranges.noise) == ((1, 1), 0, 0, 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rotation_deg": -1}, "rotation_deg=-1: must be a number of at least 0 and at most 180"),
        ({"shift_px": float("nan")}, "shift_px=nan"),
        ({"shear_deg": 46}, "shear_deg=46: must be a number of at least 0 and at most 45"),
        ({"elastic_sigma_px": 0}, "elastic_sigma_px=0: must be a number above 0"),
        ({"scale": (1.2, 0.9)}, r"scale=\(1.2, 0.9\): must be \[low, high\] with low at most high"),
        ({"gamma": (0, 1)}, r"gamma=\(0, 1\)"),
        ({"contrast": (1.5, 0.5)}, r"contrast=\(1.5, 0.5\): must be \[low, high\] with low at most high"),
        ({"contrast": (0, 1)}, r"contrast=\(0, 1\): .* each a number above 0"),
        ({"brightness": -0.1}, "brightness=-0.1: must be a number of at least 0"),
        ({"noise": float("inf")}, "noise=inf: must be a number of at least 0"),
        ({"bias": float("nan")}, "bias=nan: must be a number of at least 0"),
    ],
)
def test_ranges_that_cannot_be_drawn_from_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        parse_values(AugmentationRanges, setting)
