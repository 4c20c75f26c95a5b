"""The index: hand-made scans, a literal search over slices as oracle, and how windows are drawn."""

import numpy as np
import pytest

from dataloaders.episode_index import build_index, eligible_windows, excluded_slices, slice_areas


def column(*areas_px):
    """One scan whose target 1 has the given area in each slice."""
    volume = np.zeros((len(areas_px), 4, 5), np.int32)
    for image, area_px in zip(volume, areas_px, strict=True):
        image.flat[:area_px] = 1
    return volume


def search(targets, excluded, *, window_length, min_size_px):
    """Find the windows as the definition reads: target by target, slice by slice."""
    found = []
    for target in np.unique(targets[targets > 0]):
        for start in range(len(targets)):
            slices = range(start, start + window_length)
            if slices[-1] >= len(targets) or any(excluded[z] for z in slices):
                continue
            areas = [(targets[z] == target).sum() for z in slices]
            if min(areas) > 0 and max(areas) >= min_size_px:
                found.append((target, start))
    return found


def windows(targets, excluded=None, *, window_length=2, min_size_px=3):
    excluded = np.zeros(len(targets), bool) if excluded is None else np.asarray(excluded)
    ids, starts = eligible_windows(targets, excluded, window_length=window_length, min_size_px=min_size_px)
    return list(zip(ids.tolist(), starts.tolist(), strict=True))


def test_a_window_needs_the_target_in_every_slice_and_enough_of_it_in_one():
    assert windows(column(1, 3, 1, 1, 0, 5)) == [(1, 0), (1, 1)]


def test_a_window_of_three_needs_three_slices():
    assert windows(column(1, 3, 1, 1, 0, 5, 5), window_length=3) == [(1, 0), (1, 1)]


def test_an_excluded_slice_takes_all_its_windows_away():
    targets = column(4, 4, 4, 4, 4)
    assert windows(targets) == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert windows(targets, [False, False, True, False, False]) == [(1, 0), (1, 3)]


def test_an_area_at_the_bound_counts_and_one_below_does_not():
    assert windows(column(3, 1), min_size_px=3) == [(1, 0)]
    assert windows(column(3, 1), min_size_px=3.01) == []


def test_a_scan_shorter_than_the_window_or_without_targets_has_none():
    assert windows(column(4, 4), window_length=3) == []
    assert windows(column(0, 0, 0)) == []


@pytest.mark.parametrize("window_length", [2, 3, 4])
@pytest.mark.parametrize("offset", [0, 1 << 20])
def test_the_index_is_what_a_literal_search_finds(window_length, offset):
    generator = np.random.default_rng(window_length)
    coarse = generator.integers(0, 6, (9, 4, 5))
    targets = coarse.repeat(2, axis=1).repeat(3, axis=2).astype(np.int32)
    targets[generator.random(targets.shape) < 0.3] = 0
    targets[targets > 0] += offset
    excluded = generator.random(9) < 0.1
    expected = search(targets, excluded, window_length=window_length, min_size_px=14)
    assert len(expected) > 3
    assert windows(targets, excluded, window_length=window_length, min_size_px=14) == expected


def test_areas_are_counted_per_slice_and_background_is_not():
    targets = np.array([[[0, 2, 2]], [[3, 2, 0]]], dtype=np.int32)
    ids, areas_px = slice_areas(targets)
    np.testing.assert_array_equal(ids, [1, 2, 3])
    np.testing.assert_array_equal(areas_px, [[0, 2, 0], [0, 1, 1]])


def test_sparse_large_ids_are_counted_without_a_row_for_each():
    targets = np.array([[[0, 2**30, 7]], [[7, 7, 7]]], dtype=np.int32)
    ids, areas_px = slice_areas(targets)
    np.testing.assert_array_equal(ids, [7, 2**30])
    np.testing.assert_array_equal(areas_px, [[1, 1], [3, 0]])


def test_any_and_all_exclude_different_slices():
    label_map = np.zeros((4, 3, 3), np.int16)
    label_map[0, 0, 0] = 1
    label_map[1, 0, :2] = (1, 4)
    label_map[2, 0, 0] = 2
    np.testing.assert_array_equal(excluded_slices(label_map, (1, 4), "any"), [True, True, False, False])
    np.testing.assert_array_equal(excluded_slices(label_map, (1, 4), "all"), [False, True, False, False])
    assert not excluded_slices(label_map, (), "any").any()
    assert not excluded_slices(label_map, (), "all").any()


def test_scans_without_a_window_are_left_out_and_positions_stay():
    volumes = [column(1, 1), column(4, 4, 4), column(0, 0), column(4, 4)]
    free = [np.zeros(len(volume), bool) for volume in volumes]
    index = build_index(volumes, free, window_length=2, min_size_px=3)
    np.testing.assert_array_equal(index.scan_positions, [1, 3])
    np.testing.assert_array_equal(index.target_offsets, [0, 1, 2])
    np.testing.assert_array_equal(index.window_offsets, [0, 2, 3])
    np.testing.assert_array_equal(index.window_starts, [0, 1, 0])


def test_an_index_over_nothing_is_empty():
    index = build_index([column(0, 0)], [np.zeros(2, bool)], window_length=2, min_size_px=3)
    assert [len(index.scan_positions), len(index.target_ids), len(index.window_starts)] == [0, 0, 0]


def test_scans_targets_and_windows_are_drawn_uniformly_and_half_are_reversed():
    # Scan 0 has one target with one window; scan 1 has target 1 with two windows and target 2 with one.
    second = column(4, 4, 4)
    second[:2, 3, :] = 2
    index = build_index(
        [column(4, 4), second], [np.zeros(2, bool), np.zeros(3, bool)], window_length=2, min_size_px=3
    )
    generator = np.random.default_rng(0)
    counts = {}
    n_reversed, n_draws = 0, 4000
    for _ in range(n_draws):
        scan, target, slices = index.draw(generator)
        n_reversed += bool(slices[0] > slices[1])
        key = (scan, target, int(slices.min()))
        counts[key] = counts.get(key, 0) + 1
    expected = {(0, 1, 0): 1 / 2, (1, 1, 0): 1 / 8, (1, 1, 1): 1 / 8, (1, 2, 0): 1 / 4}
    assert counts.keys() == expected.keys()
    for key, share in expected.items():
        # Five standard deviations.
        assert abs(counts[key] / n_draws - share) < 5 * np.sqrt(share * (1 - share) / n_draws)
    assert abs(n_reversed / n_draws - 0.5) < 5 * 0.5 / np.sqrt(n_draws)
