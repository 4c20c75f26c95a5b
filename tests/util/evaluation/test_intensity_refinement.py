"""A scan's own intensities pull a segmentation's border to the organ's, and nothing else changes."""

import math

import numpy as np
import pytest

from util.evaluation import intensity_refinement as module
from util.evaluation.intensity_refinement import refine_by_intensities

SPACING_MM = (8.0, 2.0, 1.0)
OPTIONS = {"spacing_mm": SPACING_MM, "weight": 2.0, "margin_mm": 6.0}


def _disc(radius, *, centre=(24, 30), shape=(48, 60)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


@pytest.fixture(name="shifted")
def _shifted():
    """Bright discs in noise, and a segmentation that is uncertain and three pixels off."""
    rng = np.random.default_rng(1)
    organ = np.stack([_disc(8), _disc(10)])
    image = np.where(organ, 3.0, 0.0) + rng.normal(0, 0.5, organ.shape)
    segmented = np.stack([_disc(r, centre=(24, 33)) for r in (8, 10)])
    probabilities = np.where(segmented, 0.85, 0.2).astype(np.float32)
    return probabilities, image.astype(np.float32), organ


def _dice(mask, truth):
    return 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))


def test_a_segmentation_beside_its_organ_moves_to_it(shifted):
    probabilities, image, organ = shifted
    refined = refine_by_intensities(probabilities, image, **OPTIONS)
    assert _dice(probabilities > 0.5, organ) < 0.85
    assert _dice(refined > 0.5, organ) > 0.97
    assert refined.dtype == np.float32


def test_nothing_changes_beyond_the_margin(shifted):
    probabilities, image, _ = shifted
    before = probabilities.copy()
    refined = refine_by_intensities(probabilities, image, **OPTIONS)
    assert np.array_equal(probabilities, before)
    rows, columns = np.indices(probabilities.shape[1:])
    for one, other, segmented in zip(refined, probabilities, probabilities > 0.5, strict=True):
        inside = np.argwhere(segmented)
        distances = np.hypot(
            (rows[..., None] - inside[:, 0]) * SPACING_MM[1],
            (columns[..., None] - inside[:, 1]) * SPACING_MM[2],
        ).min(axis=-1)
        # The ellipse's border is one of whole pixels.
        assert np.array_equal(one[distances > 7], other[distances > 7])
        assert (one != other)[(distances > 0) & (distances < 4)].all()


def test_the_ratio_is_that_of_the_histograms(shifted, monkeypatch):
    # Without smoothing, in five bins of one unit each, computed pixel by pixel.
    monkeypatch.setattr(module, "N_BINS", 5)
    monkeypatch.setattr(module, "SMOOTHING_BINS", 1e-6)
    monkeypatch.setattr(module, "RANGE_PERCENT", (0, 100))
    probabilities, _, _ = shifted
    probabilities[0, 24, 36] = 0.6  # in the foreground, but not confident
    image = np.random.default_rng(2).integers(0, 5, probabilities.shape).astype(np.float32)
    image[0, 0, :2] = 0, 4
    refined = refine_by_intensities(probabilities, image, **OPTIONS)
    changed = refined != probabilities
    foreground = probabilities > 0.5
    confident = [image[p] for p in np.ndindex(image.shape) if probabilities[p] > 0.8]
    around = [image[p] for p in np.ndindex(image.shape) if changed[p] and not foreground[p]]
    for position in [(0, 24, 33), (0, 24, 36), (1, 24, 45), (1, 12, 33)]:
        value, probability = image[position], float(probabilities[position])
        inside, outside = (
            sum(v == value for v in values) / len(values) + 1e-3 for values in (confident, around)
        )
        log_odds = math.log(probability / (1 - probability)) + 2 * math.log(inside / outside)
        assert changed[position]
        assert refined[position] == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-3)


def test_unit_and_order_of_slices_do_not_matter(shifted):
    probabilities, image, _ = shifted
    refined = refine_by_intensities(probabilities, image, **OPTIONS)
    scaled = refine_by_intensities(probabilities, 512 + 64 * image, **OPTIONS)
    assert np.allclose(scaled, refined, atol=1e-5)
    reordered = refine_by_intensities(probabilities[::-1], image[::-1], **OPTIONS)
    assert np.array_equal(reordered[::-1], refined)


@pytest.mark.parametrize("case", ["weight 0", "no foreground", "no margin", "no contrast"])
def test_without_weight_foreground_margin_or_contrast_the_segmentation_stays(shifted, case):
    probabilities, image, _ = shifted
    options = {**OPTIONS, "weight": 0.0} if case == "weight 0" else OPTIONS
    if case == "no foreground":
        probabilities[:] = 0.4
    if case == "no margin":
        probabilities[:] = 0.9
    if case == "no contrast":
        image = np.zeros_like(image)
    assert refine_by_intensities(probabilities, image, **options) is probabilities


def test_a_small_organ_is_sampled_whole(shifted):
    # Fewer than 50 confident pixels: all of the foreground are the sample, or noise would decide.
    _, image, organ = shifted
    probabilities = np.where(organ, 0.7, 0.1).astype(np.float32)
    probabilities[0, 24, 30] = 0.9
    refined = refine_by_intensities(probabilities, image, **OPTIONS)
    assert _dice(refined > 0.5, organ) > 0.98
