"""Episodes over gaps and several sets of supervoxels, and stronger intensity changes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dataloaders.episode_settings import AugmentationRanges, EpisodeConfig
from dataloaders.episodes import EpisodeDataset

PLAIN = AugmentationRanges.disabled()
CONFIG = EpisodeConfig(seed=11, n_episodes=300, augmentation=PLAIN)
STRONG = AugmentationRanges(contrast=(0.7, 1.4), brightness=0.3, bias=0.4, noise=0.2)


@pytest.fixture
def multi_scan(make_scan):
    """Return a scan with three sets: 8 blocks (ids up to 8), one piece (1000), 64 columns (from 2000)."""
    scan = make_scan(3, shape=(6, 32, 32))
    one_piece = np.full(scan.image.shape, 1000, np.int32)
    _, y, x = np.indices(scan.image.shape)
    fine = (2000 + (y // 4) * 8 + x // 4).astype(np.int32)
    return replace(scan, more_supervoxels=(one_piece, fine))


def set_position(episode):
    return int(episode["supervoxel_id"]) // 1000


def test_every_gap_occurs_and_every_slice_holds_the_target(make_scan):
    dataset = EpisodeDataset([make_scan(1, shape=(7, 32, 32))], replace(CONFIG, max_gap=2))
    steps = Counter()
    for episode in (dataset[i] for i in range(300)):
        start, end = episode["slice_indices"].tolist()
        steps[end - start] += 1
        assert episode["support_masks"].any()
        assert episode["query_masks"].any()
    assert steps.keys() == {-2, -1, 1, 2}
    # Each block of three slices has both gaps; the last block, of one slice, none.
    for count in steps.values():
        assert abs(count - 75) < 5 * np.sqrt(300 * 3 / 16)


def test_with_shots_all_steps_of_an_episode_are_equal(make_scan):
    one_piece = np.ones((9, 32, 32), np.int32)
    scan = make_scan(1, shape=(9, 32, 32), supervoxels=one_piece)
    dataset = EpisodeDataset([scan], replace(CONFIG, n_shots=2, max_gap=9))
    steps = set()
    for episode in (dataset[i] for i in range(100)):
        (step,) = set(np.diff(episode["slice_indices"]).tolist())
        steps.add(step)
    assert steps == {-4, -3, -2, -1, 1, 2, 3, 4}


def test_excluded_slices_are_never_used_with_gaps_but_may_lie_between(make_scan):
    label_map = np.zeros((7, 32, 32))
    label_map[[2, 5], 0, 0] = 1
    scan = make_scan(1, shape=label_map.shape, supervoxels=np.ones(label_map.shape), label_map=label_map)
    dataset = EpisodeDataset([scan], replace(CONFIG, max_gap=3, exclude_labels=(1,)))
    used = {tuple(sorted(dataset[i]["slice_indices"].tolist())) for i in range(300)}
    assert used == {(0, 1), (3, 4), (1, 3), (4, 6), (0, 3), (1, 4), (3, 6)}


def test_every_set_is_sampled_equally_often_and_its_own_volume_gives_the_masks(multi_scan):
    dataset = EpisodeDataset([multi_scan], CONFIG)
    volumes = (multi_scan.supervoxels, *multi_scan.more_supervoxels)
    counts = Counter()
    for episode in (dataset[i] for i in range(300)):
        position = set_position(episode)
        counts[position] += 1
        slices = volumes[position][episode["slice_indices"].numpy()]
        support, query = slices == int(episode["supervoxel_id"])
        np.testing.assert_array_equal(episode["support_masks"][0], support)
        np.testing.assert_array_equal(episode["query_masks"][0], query)
    assert counts.keys() == {0, 1, 2}
    for count in counts.values():
        assert abs(count - 100) < 5 * np.sqrt(300 * 2 / 9)


def test_a_set_without_an_eligible_target_is_left_out(multi_scan):
    # 32 x 32 is a 64th of 256 x 256: 17 px here, one more than the fine set's columns have.
    dataset = EpisodeDataset([multi_scan], replace(CONFIG, min_size_px=64 * 17))
    assert {set_position(dataset[i]) for i in range(100)} == {0, 1}
    np.testing.assert_array_equal(dataset.index.set_positions, [0, 1])


def test_scans_stay_equally_likely_whatever_sets_they_have(multi_scan, make_scan):
    dataset = EpisodeDataset([make_scan(1), multi_scan], CONFIG)
    counts = Counter(int(dataset[i]["scan_id"]) for i in range(300))
    assert abs(counts[1] - 150) < 5 * np.sqrt(300 / 4)


def test_manual_labels_leave_all_sets_aside(multi_scan):
    label_map = np.zeros(multi_scan.image.shape, np.int16)
    label_map[:, :16, :16] = 2
    scan = replace(multi_scan, label_map=label_map)
    dataset = EpisodeDataset([scan], replace(CONFIG, use_gt=True, train_labels=(2,)))
    assert {int(dataset[i]["supervoxel_id"]) for i in range(30)} == {2}


def test_an_episode_depends_on_seed_and_index_alone_with_everything_on(multi_scan):
    config = replace(CONFIG, max_gap=3, augmentation=STRONG)
    before = [volume.copy() for volume in (multi_scan.image, *multi_scan.more_supervoxels)]
    dataset = EpisodeDataset([multi_scan], config)
    first = dataset[7]
    dataset[3]
    for again in (dataset[7], EpisodeDataset([multi_scan], config)[7]):
        assert first.keys() == again.keys()
        for key, value in first.items():
            torch.testing.assert_close(value, again[key], rtol=0, atol=0)
    assert not torch.equal(first["query_images"], dataset[8]["query_images"])
    for volume, expected in zip((multi_scan.image, *multi_scan.more_supervoxels), before, strict=True):
        np.testing.assert_array_equal(volume, expected)
