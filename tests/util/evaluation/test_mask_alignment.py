"""A mask that registration misplaced is shifted to the organ that the segmentation shows."""

import numpy as np
import pytest
from scipy import signal

from util.evaluation.mask_alignment import _correlate, find_shift, measure_agreement, shift_mask

SPACING_MM = (6.0, 3.0, 3.0)


def _box(first, shape=(10, 40, 44), size=(3, 8, 6)):
    mask = np.zeros(shape, np.float32)
    mask[tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))] = 1
    return mask


def _log_odds(mask):
    return np.where(mask > 0.5, 5.0, -5.0).astype(np.float32)


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 0), (-1, 3, -5), (2, -6, 4)])
def test_a_displaced_mask_finds_its_organ(shift):
    mask, organ = _box((4, 16, 20)), _box(np.add((4, 16, 20), shift))
    result = find_shift(mask, _log_odds(organ), spacing_mm=SPACING_MM, scale_mm=30.0)
    assert result == shift
    np.testing.assert_array_equal(shift_mask(mask, result), organ)


def test_the_shift_is_in_voxels_of_fine_slices():
    mask, organ = (_box((4, y, 60), (10, 120, 132), (3, 24, 18)) for y in (48, 60))
    shift = find_shift(mask, _log_odds(organ), spacing_mm=(6.0, 1.0, 1.0), scale_mm=30.0)
    assert shift == (0.0, 12.0, 0.0)
    np.testing.assert_array_equal(shift_mask(mask, shift), organ)


def test_pixels_above_the_coarse_size_stay():
    mask, organ = _box((4, 16, 20)), _box((4, 17, 20))
    assert find_shift(mask, _log_odds(organ), spacing_mm=(6.0, 5.0, 5.0), scale_mm=30.0) == (0.0, 1.0, 0.0)


def test_a_shift_must_pay_for_its_length():
    # A shift by one slice, 6 mm, brings one of three slices from background, -1, to foreground, +1: the
    # mean rises by 2/3, for (6 / scale)^2, which is 1.44 or 0.25.
    mask, organ = _box((4, 16, 20)), _box((5, 16, 20))
    options = {"spacing_mm": SPACING_MM}
    assert find_shift(mask, 2 * organ - 1, scale_mm=5.0, **options) == (0.0, 0.0, 0.0)
    assert find_shift(mask, 2 * organ - 1, scale_mm=12.0, **options) == (1.0, 0.0, 0.0)


def test_the_agreement_is_the_mean_log_odds_less_the_shifts_cost():
    mask, organ = _box((4, 16, 20)), _box((5, 16, 20))  # a shift by 6 mm
    options = {"spacing_mm": SPACING_MM, "scale_mm": 12.0}
    assert measure_agreement(organ, _log_odds(organ), **options) == pytest.approx(5.0)
    assert measure_agreement(mask, _log_odds(organ), **options) == pytest.approx(5.0 - 0.25)
    assert measure_agreement(np.zeros_like(mask), _log_odds(organ), **options) == -np.inf


def test_an_empty_mask_stays():
    empty = np.zeros((3, 8, 8), np.float32)
    assert find_shift(empty, empty, spacing_mm=SPACING_MM, scale_mm=30.0) == (0.0, 0.0, 0.0)
    assert shift_mask(empty, (0.0, 0.0, 0.0)) is empty


@pytest.mark.parametrize("seed", range(5))
def test_correlation_equals_scipys(seed):
    random = np.random.default_rng(seed)
    kernel = random.random(random.integers(1, 6, 3)).astype(np.float32)
    window = random.normal(size=kernel.shape + random.integers(0, 9, 3)).astype(np.float32)
    expected = signal.correlate(window, kernel, mode="valid")
    np.testing.assert_allclose(_correlate(window, kernel), expected, atol=1e-4)
