"""Augmenting an episode: what is drawn, in which order, and which side it changes."""

from collections import Counter

import numpy as np
import pytest

from dataloaders.augmentation import augment_episode
from dataloaders.episode_settings import AugmentationRanges
from dataloaders.intensities import apply_gamma
from dataloaders.warps import sample_warp, warp_image_and_mask

PLAIN = AugmentationRanges.disabled()
# Each alone, far from changing nothing; noise and bias draw how strong they are from 0 on.
CHANGES = {
    "contrast": {"contrast": (0.5, 0.7)},
    "brightness": {"brightness": 1.0},
    "bias": {"bias": 0.5},
    "noise": {"noise": 1.0},
}


@pytest.fixture
def slices():
    """Three slices of 24 x 20 that differ, with a block as mask."""
    images = np.random.default_rng(0).normal(size=(3, 24, 20)).astype(np.float32)
    masks = np.zeros_like(images)
    masks[:, 6:18, 5:15] = 1
    return images, masks


def augmented(slices, seed, *, n_shots=2, **settings):
    """Augment copies; return them."""
    images, masks = (values.copy() for values in slices)
    ranges = PLAIN.model_copy(update=settings)
    augment_episode(images, masks, n_shots, ranges=ranges, generator=np.random.default_rng(seed))
    return images, masks


def changed_slices(before, after):
    return tuple((np.abs(after - before) > 1e-4).any(axis=(1, 2)).tolist())


def test_by_default_nothing_but_gamma_and_the_warp_is_drawn(slices):
    ranges = AugmentationRanges()
    for seed in range(20):
        images, masks = (values.copy() for values in slices)
        generator, plain = np.random.default_rng(seed), np.random.default_rng(seed)
        augment_episode(images, masks, 2, ranges=ranges, generator=generator)

        expected_images, expected_masks = (values.copy() for values in slices)
        side = [0, 1] if plain.random() < 0.5 else [2]
        gamma = plain.uniform(0.5, 1.5)
        for z in side:
            expected_images[z] = apply_gamma(expected_images[z], gamma)
        side = [0, 1] if plain.random() < 0.5 else [2]
        source_map = sample_warp(plain, (24, 20), ranges)
        for z in side:
            expected_images[z], expected_masks[z] = warp_image_and_mask(
                expected_images[z], expected_masks[z], source_map
            )
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(masks, expected_masks)
        assert generator.bit_generator.state == plain.bit_generator.state


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_goes_to_one_side_either_one_half_of_the_time(slices, change):
    sides = Counter()
    for seed in range(200):
        images, masks = augmented(slices, seed, **CHANGES[change])
        np.testing.assert_array_equal(masks, slices[1])
        sides[changed_slices(slices[0], images)] += 1
    # All shots or the query; hardly ever none, where the drawn strength is next to nothing.
    assert sides.keys() <= {(True, True, False), (False, False, True), (False, False, False)}
    assert sides[False, False, False] < 4
    # Five standard deviations of 200 fair draws.
    assert abs(sides[True, True, False] - 100) < 36


def test_the_sides_of_all_changes_are_chosen_independently(slices):
    settings = {name: value for changes in CHANGES.values() for name, value in changes.items()}
    both = 0
    for seed in range(200):
        images, _ = augmented(slices, seed, **settings)
        both += all(changed_slices(slices[0], images))
    # Four changes all on one side: an eighth of the time.
    assert abs(both - 175) < 5 * np.sqrt(200 * 7 / 64)


def values_by_episode(slices, settings, value_of):
    """One function of (before, after) on the changed slices of many episodes, a list for each."""
    episodes = []
    for seed in range(300):
        images, _ = augmented(slices, seed, **settings)
        changed = np.flatnonzero(changed_slices(slices[0], images))
        episodes.append([value_of(slices[0][z], images[z]) for z in changed])
    return [values for values in episodes if values]


def factor_on_contrast(before, after):
    return after.std() / before.std()


def shift(before, after):
    return (after - before).mean()


def strongest_logarithm(before, after):
    above = before > before.min()
    factors = (after - after.min())[above] / (before - before.min())[above]
    return np.abs(np.log(factors)).max()


@pytest.mark.parametrize(
    ("settings", "value_of", "low", "high"),
    [
        ({"contrast": (0.5, 2.0)}, factor_on_contrast, 0.5, 2.0),
        ({"brightness": 0.8}, shift, -0.8, 0.8),
        ({"bias": 0.5}, strongest_logarithm, 0.0, 0.5),
    ],
)
def test_drawn_values_fill_their_range_and_all_shots_share_one(slices, settings, value_of, low, high):
    episodes = values_by_episode(slices, settings, value_of)
    for values in episodes:
        np.testing.assert_allclose(values, values[0], atol=0.02)
    assert {len(values) for values in episodes} == {1, 2}
    result = np.array([values[0] for values in episodes])
    margin = 0.05 * (high - low)
    assert low - 1e-3 < result.min() < low + margin
    assert high - margin < result.max() < high + 1e-3
    # Uniform: five standard errors of the mean.
    assert abs(result.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * len(result)) + 0.01


def test_the_deviation_of_noise_is_uniform_and_shots_get_their_own(slices):
    episodes = values_by_episode(slices, {"noise": 0.6}, lambda before, after: after - before)
    deviations = np.array([np.std(noises) for noises in episodes])
    assert deviations.min() < 0.03
    assert 0.54 < deviations.max() < 0.65
    assert abs(deviations.mean() - 0.3) < 5 * 0.6 / np.sqrt(12 * 300)
    shots = [noises for noises in episodes if len(noises) == 2]
    assert len(shots) > 100
    # Five standard errors for 480 pixels.
    assert max(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in shots) < 5 / np.sqrt(480)


def test_noise_is_not_warped(slices):
    flat = np.zeros_like(slices[0]), slices[1]
    settings = {"noise": 0.6, "rotation_deg": 5.0, "shift_px": 200.0}
    for seed in range(20):
        images, _ = augmented(flat, seed, **settings)
        changed = np.flatnonzero((images != 0).any(axis=(1, 2)))
        # Independent normal numbers everywhere, outside the moved slice too: none repeats another.
        assert all(len(np.unique(images[z])) > 0.9 * images[z].size for z in changed)
        assert len(changed) > 0


def test_with_everything_on_values_stay_finite_float32_and_masks_binary(slices):
    ranges = AugmentationRanges(contrast=(0.5, 2), brightness=1, bias=1, noise=1)
    for seed in range(50):
        images, masks = (values.copy() for values in slices)
        augment_episode(images, masks, 2, ranges=ranges, generator=np.random.default_rng(seed))
        assert images.dtype == masks.dtype == np.float32
        assert np.isfinite(images).all()
        assert set(np.unique(masks)) == {0.0, 1.0}
        assert masks.any(axis=(1, 2)).all()
