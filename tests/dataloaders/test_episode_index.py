"""The index: hand-made scans, a literal search over slices as oracle, and how windows are drawn."""

import itertools
from collections import Counter

import numpy as np
import pytest

from dataloaders.episode_index import build_index, count_slice_areas, find_excluded_slices, find_windows


def column(*areas_px):
    """One scan whose target 1 has the given area in each slice."""
    volume = np.zeros((len(areas_px), 4, 5), np.int32)
    for image, area_px in zip(volume, areas_px, strict=True):
        image.flat[:area_px] = 1
    return volume


def search(targets, excluded, *, window_length, min_size_px, max_gap):
    """Find the windows as the definition reads: target by target, gap by gap, slice by slice."""
    result = []
    for target in np.unique(targets[targets > 0]):
        for gap, start in itertools.product(range(1, max_gap + 1), range(len(targets))):
            slices = [start + i * gap for i in range(window_length)]
            if slices[-1] >= len(targets) or any(excluded[z] for z in slices):
                continue
            areas = [(targets[z] == target).sum() for z in slices]
            if min(areas) > 0 and max(areas) >= min_size_px:
                result.append((target, gap, start))
    return result


def windows(targets, excluded=None, **criteria):
    """List the eligible windows as (target, gap, first slice)."""
    excluded = np.zeros(len(targets), bool) if excluded is None else np.asarray(excluded)
    result = find_windows(targets, excluded, **{"window_length": 2, "min_size_px": 3, **criteria})
    return list(zip(*(values.tolist() for values in result), strict=True))


def test_a_window_needs_the_target_in_every_slice_and_enough_of_it_in_one():
    assert windows(column(1, 3, 1, 1, 0, 5)) == [(1, 1, 0), (1, 1, 1)]


def test_a_window_of_three_needs_three_slices():
    assert windows(column(1, 3, 1, 1, 0, 5, 5), window_length=3) == [(1, 1, 0), (1, 1, 1)]


def test_an_excluded_slice_takes_all_its_windows_away():
    targets = column(4, 4, 4, 4, 4)
    assert windows(targets) == [(1, 1, 0), (1, 1, 1), (1, 1, 2), (1, 1, 3)]
    assert windows(targets, [False, False, True, False, False]) == [(1, 1, 0), (1, 1, 3)]


def test_with_gaps_the_slices_of_a_window_lie_further_apart_too():
    # Steps of one: 0-1, 1-2; of two: 1-3, and 3-5 over the slice without the target; of three: 2-5. 0-2, 2-3
    # and 0-3 have one pixel in each slice.
    targets = column(1, 3, 1, 1, 0, 5)
    assert windows(targets, max_gap=3) == [(1, 1, 0), (1, 1, 1), (1, 2, 1), (1, 2, 3), (1, 3, 2)]


def test_all_slices_of_a_window_lie_equally_far_apart():
    targets = column(4, 4, 4, 4, 4)
    assert windows(targets, window_length=3, max_gap=2) == [(1, 1, 0), (1, 1, 1), (1, 1, 2), (1, 2, 0)]


def test_a_window_may_step_over_an_excluded_slice():
    result = windows(column(4, 4, 4, 4, 4), [False, False, True, False, False], max_gap=2)
    assert result == [(1, 1, 0), (1, 1, 3), (1, 2, 1)]


def test_gaps_beyond_the_scan_cost_and_add_nothing():
    assert windows(column(4, 4, 4), max_gap=10**12) == [(1, 1, 0), (1, 1, 1), (1, 2, 0)]


def test_an_area_at_the_bound_counts_and_one_below_does_not():
    assert windows(column(3, 1), min_size_px=3) == [(1, 1, 0)]
    assert windows(column(3, 1), min_size_px=3.01) == []


def test_a_scan_shorter_than_the_window_or_without_targets_has_none():
    assert windows(column(4, 4), window_length=3) == []
    assert windows(column(4, 4), window_length=3, max_gap=2) == []
    assert windows(column(0, 0, 0)) == []


@pytest.mark.parametrize(("window_length", "max_gap"), [(2, 1), (3, 1), (4, 1), (2, 4), (3, 3)])
@pytest.mark.parametrize("offset", [0, 1 << 20])
def test_the_index_is_what_a_literal_search_finds(window_length, max_gap, offset):
    generator = np.random.default_rng(window_length)
    coarse = generator.integers(0, 6, (9, 4, 5))
    targets = coarse.repeat(2, axis=1).repeat(3, axis=2).astype(np.int32)
    targets[generator.random(targets.shape) < 0.3] = 0
    targets[targets > 0] += offset
    excluded = generator.random(9) < 0.1
    criteria = {"window_length": window_length, "min_size_px": 14, "max_gap": max_gap}
    expected = search(targets, excluded, **criteria)
    assert len(expected) > 3
    assert {gap for _, gap, _ in expected} == set(range(1, max_gap + 1))
    assert windows(targets, excluded, **criteria) == expected


def test_areas_are_counted_per_slice_and_background_is_not():
    targets = np.array([[[0, 2, 2]], [[3, 2, 0]]], dtype=np.int32)
    ids, areas_px = count_slice_areas(targets)
    np.testing.assert_array_equal(ids, [1, 2, 3])
    np.testing.assert_array_equal(areas_px, [[0, 2, 0], [0, 1, 1]])


def test_sparse_large_ids_are_counted_without_a_row_for_each():
    targets = np.array([[[0, 2**30, 7]], [[7, 7, 7]]], dtype=np.int32)
    ids, areas_px = count_slice_areas(targets)
    np.testing.assert_array_equal(ids, [7, 2**30])
    np.testing.assert_array_equal(areas_px, [[1, 1], [3, 0]])


def test_any_and_all_exclude_different_slices():
    label_map = np.zeros((4, 3, 3), np.int16)
    label_map[0, 0, 0] = 1
    label_map[1, 0, :2] = (1, 4)
    label_map[2, 0, 0] = 2
    np.testing.assert_array_equal(find_excluded_slices(label_map, (1, 4), "any"), [True, True, False, False])
    np.testing.assert_array_equal(find_excluded_slices(label_map, (1, 4), "all"), [False, True, False, False])
    assert not find_excluded_slices(label_map, (), "any").any()
    assert not find_excluded_slices(label_map, (), "all").any()


def test_scans_without_a_window_are_left_out_and_positions_stay():
    volumes = [column(1, 1), column(4, 4, 4), column(0, 0), column(4, 4)]
    free = [np.zeros(len(volume), bool) for volume in volumes]
    index = build_index([[volume] for volume in volumes], free, window_length=2, min_size_px=3)
    np.testing.assert_array_equal(index.scan_positions, [1, 3])
    np.testing.assert_array_equal(index.target_offsets, [0, 1, 2])
    np.testing.assert_array_equal(index.window_offsets, [0, 2, 3])
    np.testing.assert_array_equal(index.window_starts, [0, 1, 0])


def test_sets_targets_and_gaps_are_kept_apart_though_their_numbers_repeat():
    # Target 1 has gaps 1 and 2 in the last set of the first scan, which ends as the second scan begins.
    free = [np.zeros(3, bool), np.zeros(2, bool)]
    sets = [[column(4, 4, 0), column(0, 0, 0), column(4, 4, 4)], [column(4, 4)]]
    index = build_index(sets, free, window_length=2, min_size_px=3, max_gap=2)
    np.testing.assert_array_equal(index.scan_positions, [0, 1])
    np.testing.assert_array_equal(index.set_offsets, [0, 2, 3])
    np.testing.assert_array_equal(index.set_positions, [0, 2, 0])
    np.testing.assert_array_equal(index.target_offsets, [0, 1, 2, 3])
    np.testing.assert_array_equal(index.target_ids, [1, 1, 1])
    np.testing.assert_array_equal(index.gap_offsets, [0, 1, 3, 4])
    np.testing.assert_array_equal(index.gaps, [1, 1, 2, 1])
    np.testing.assert_array_equal(index.window_offsets, [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(index.window_starts, [0, 0, 1, 0, 0])


@pytest.mark.parametrize("sets", [[], [[]], [[column(0, 0)]]])
def test_an_index_over_nothing_is_empty(sets):
    index = build_index(sets, [np.zeros(2, bool)] * len(sets), window_length=2, min_size_px=3)
    assert [len(index.scan_positions), len(index.target_ids), len(index.window_starts)] == [0, 0, 0]
    np.testing.assert_array_equal(index.target_offsets, [0])


def draw_shares(index, n_draws):
    """Draw often; return the share of each (scan, set, target, gap, first slice), and of reversed order."""
    generator = np.random.default_rng(0)
    counts = Counter()
    n_reversed = 0
    for _ in range(n_draws):
        window = index.draw(generator)
        n_reversed += bool(window.slices[0] > window.slices[-1])
        slices = np.sort(window.slices)
        (gap,) = set(np.diff(slices).tolist())
        counts[window.scan_position, window.set_position, window.target_id, gap, int(slices[0])] += 1
    return {key: count / n_draws for key, count in counts.items()}, n_reversed / n_draws


def assert_shares(result, expected, n_draws):
    assert result.keys() == expected.keys()
    for key, share in expected.items():
        # Five standard deviations.
        assert abs(result[key] - share) < 5 * np.sqrt(share * (1 - share) / n_draws)


def test_scans_targets_and_windows_are_drawn_uniformly_and_half_are_reversed():
    # Scan 0 has one target with one window; scan 1 has target 1 with two windows and target 2 with one.
    second = column(4, 4, 4)
    second[:2, 3, :] = 2
    free = [np.zeros(2, bool), np.zeros(3, bool)]
    index = build_index([[column(4, 4)], [second]], free, window_length=2, min_size_px=3)
    shares, share_reversed = draw_shares(index, 4000)
    expected = {
        (0, 0, 1, 1, 0): 1 / 2,
        (1, 0, 1, 1, 0): 1 / 8,
        (1, 0, 1, 1, 1): 1 / 8,
        (1, 0, 2, 1, 0): 1 / 4,
    }
    assert_shares(shares, expected, 4000)
    assert abs(share_reversed - 0.5) < 5 * 0.5 / np.sqrt(4000)


def test_sets_then_targets_then_gaps_are_drawn_uniformly():
    # A coarse set of one target with windows of both gaps; a fine one of two targets, one of them too short
    # for gap 2.
    fine = column(4, 4, 0)
    fine[:, 3, :] = 2
    index = build_index(
        [[column(4, 4, 4), fine]], [np.zeros(3, bool)], window_length=2, min_size_px=3, max_gap=2
    )
    shares, share_reversed = draw_shares(index, 4000)
    expected = {
        (0, 0, 1, 1, 0): 1 / 8,
        (0, 0, 1, 1, 1): 1 / 8,
        (0, 0, 1, 2, 0): 1 / 4,
        (0, 1, 1, 1, 0): 1 / 4,
        (0, 1, 2, 1, 0): 1 / 16,
        (0, 1, 2, 1, 1): 1 / 16,
        (0, 1, 2, 2, 0): 1 / 8,
    }
    assert_shares(shares, expected, 4000)
    assert abs(share_reversed - 0.5) < 5 * 0.5 / np.sqrt(4000)


def test_one_set_and_one_gap_consume_no_random_number():
    second = column(4, 4, 4)
    second[:, 3, :] = 2
    index = build_index(
        [[column(4, 4, 4)], [second]], [np.zeros(3, bool)] * 2, window_length=2, min_size_px=3
    )
    generator, plain = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(50):
        window = index.draw(generator)
        scan = plain.integers(2)
        target = 1 + (plain.integers(2) if scan == 1 else 0)
        start = plain.integers(2)
        slices = [start, start + 1][:: -1 if plain.random() < 0.5 else 1]
        assert (window.scan_position, window.target_id, window.slices.tolist()) == (scan, target, slices)
    assert generator.bit_generator.state == plain.bit_generator.state
