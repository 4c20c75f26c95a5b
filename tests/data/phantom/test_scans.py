"""What the phantom's scans look like."""

import itertools

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from data.datasets import find_spec
from data.phantom.anatomy import LEFT_KIDNEY, LIVER, RIGHT_KIDNEY, SPLEEN
from data.phantom.scans import PhantomSettings, render_scan

SMALL = PhantomSettings(image_size_px=48, min_slices=18, max_slices=22)
TINY = PhantomSettings(image_size_px=32, min_slices=18, max_slices=18)
ORGANS = (LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN)


@pytest.fixture(scope="module")
def scans():
    """Ten small scans, `(image, label_map, geometry)` each."""
    return [render_scan(scan_id, SMALL) for scan_id in range(10)]


def _centre(mask: np.ndarray) -> np.ndarray:
    """Mean place `(z, row, column)`."""
    return np.argwhere(mask).mean(axis=0)


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def _best_interval_dice(image: np.ndarray, mask: np.ndarray) -> float:
    """Dice of the best `low <= image < high` found with the truth, on the slices that hold the organ."""
    held = mask.any(axis=(1, 2))
    values, truth = image[held].ravel(), mask[held].ravel()
    edges = np.append(np.unique(np.quantile(values, np.linspace(0, 1, 101))), np.inf)
    bins = np.searchsorted(edges, values, side="right")
    below = np.cumsum(np.bincount(bins, minlength=len(edges) + 1))
    hits_below = np.cumsum(np.bincount(bins, weights=truth, minlength=len(edges) + 1))
    pairs = itertools.combinations(range(len(below)), 2)
    return max(2 * (hits_below[j] - hits_below[i]) / (below[j] - below[i] + truth.sum()) for i, j in pairs)


def _copied_mask_dice(support: np.ndarray, query: np.ndarray) -> float:
    """Dice of the support's three slices copied onto the query's three chunks."""
    support_slices, query_slices = (np.flatnonzero(mask.any(axis=(1, 2))) for mask in (support, query))
    copied = np.zeros_like(query)
    bounds = np.linspace(0, len(query_slices), 4).astype(int)
    for fraction, start, end in zip((1 / 6, 1 / 2, 5 / 6), bounds[:-1], bounds[1:], strict=True):
        copied[query_slices[start:end]] = support[support_slices[int(fraction * len(support_slices))]]
    return _dice(copied, query)


def test_the_best_interval_is_perfect_where_a_threshold_does_suffice():
    image = np.array([[[1, 5, 6], [9, 5, 0]]])
    assert _best_interval_dice(image, (image == 5) | (image == 6)) == 1
    assert _best_interval_dice(np.ones((1, 2, 2)), np.array([[[True, False], [False, False]]])) == 0.4


def test_labels_are_those_of_the_dataset():
    names = find_spec("PHANTOM").labels
    assert [names[label] for label in ORGANS] == ["liver", "right kidney", "left kidney", "spleen"]


def test_image_and_labels_have_the_types_of_prepared_scans(scans):
    for image, label_map, geometry in scans:
        assert image.dtype == np.int16
        assert label_map.dtype == np.uint8
        assert image.shape == label_map.shape == geometry.shape
        assert image.shape[1:] == (48, 48)
        assert 0 <= image.min() < 60 < 300 < image.max()
        np.testing.assert_allclose(geometry.spacing_mm, (7.7, 320 / 48, 320 / 48))


def test_numbers_of_slices_stay_in_range_and_differ(scans):
    n_slices = {len(image) for image, _, _ in scans}
    assert n_slices <= set(range(18, 23))
    assert len(n_slices) > 1


def test_every_scan_shows_every_organ_in_four_slices():
    for scan_id in range(30):
        _, label_map, _ = render_scan(scan_id, TINY)
        for organ in ORGANS:
            assert (label_map == organ).any(axis=(1, 2)).sum() >= 4, (scan_id, organ)


def test_organs_lie_as_in_a_patient_seen_from_the_feet_with_the_back_on_top(scans):
    for _, label_map, _ in scans:
        liver, right, left, spleen = (_centre(label_map == organ) for organ in ORGANS)
        assert liver[2] < spleen[2]
        assert right[2] < 24 < left[2]
        assert max(right[1], left[1]) < liver[1]
        assert right[0] < liver[0]
        assert left[0] < spleen[0]


def test_each_organ_is_one_piece_of_its_own_size(scans):
    for _, label_map, geometry in scans:
        ml = np.bincount(label_map.ravel(), minlength=5)[1:] * np.prod(geometry.spacing_mm) / 1000
        assert 500 < ml[0] < 2500
        assert all(50 < kidney < 420 for kidney in ml[1:3])
        assert 40 < ml[3] < 500


def test_organs_vary_in_size_place_and_brightness_between_scans(scans):
    for organ in ORGANS:
        masks = [label_map == organ for _, label_map, _ in scans]
        sizes = np.array([mask.sum() for mask in masks])
        positions = np.array([_centre(mask)[1:] for mask in masks])
        levels = [
            (im[mask].mean() - im.mean()) / im.std() for (im, _, _), mask in zip(scans, masks, strict=True)
        ]
        assert sizes.std() / sizes.mean() > 0.1
        assert positions.std(axis=0).min() * 320 / 48 > 4
        assert np.std(levels) > 0.1


def test_no_threshold_finds_an_organ_even_when_chosen_with_the_truth(scans):
    dice = [[_best_interval_dice(im, label_map == organ) for organ in ORGANS] for im, label_map, _ in scans]
    assert np.mean(dice) < 0.5


def test_copying_the_support_mask_is_a_weak_baseline_but_not_chance(scans):
    label_maps = [label_map for _, label_map, _ in scans]
    pairs = itertools.permutations(label_maps, 2)
    dice = [[_copied_mask_dice(a == organ, b == organ) for organ in ORGANS] for a, b in pairs]
    assert 0.3 < np.mean(dice) < 0.55


def test_organs_stand_out_from_what_surrounds_them(scans):
    # Supervoxels can only follow organs that differ from their neighbourhood.
    for organ in ORGANS:
        contrasts = []
        for image, label_map, _ in scans:
            mask = label_map == organ
            padded = np.pad(mask, ((0, 0), (2, 2), (2, 2)))
            near = sliding_window_view(padded, (5, 5), axis=(1, 2)).any(axis=(3, 4))
            ring = near & (label_map == 0)
            contrasts.append((image[mask].mean() - image[ring].mean()) / image.std())
        assert np.median(contrasts) > 0.4


def test_air_holds_the_noise_of_a_magnitude_image(scans):
    for image, _, _ in scans:
        corner = image[:, :4, :4].astype(float)
        # A Rayleigh distribution's mean is 1.91 times its standard deviation.
        assert corner.mean() / corner.std() == pytest.approx(1.91, abs=0.25)


def test_a_scan_depends_on_settings_and_id_alone(scans):
    np.random.default_rng(0).random(3)
    again = render_scan(3, SMALL)
    assert np.array_equal(again[0], scans[3][0])
    assert np.array_equal(again[1], scans[3][1])
    assert again[2] == scans[3][2]
    other_seed = PhantomSettings(image_size_px=48, min_slices=18, max_slices=22, seed=7)
    assert not np.array_equal(render_scan(3, other_seed)[1], again[1])


def test_scans_of_different_ids_differ():
    first, second = (render_scan(scan_id, TINY) for scan_id in (0, 1))
    assert not np.array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])
