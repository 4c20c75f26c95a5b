"""What may be played: least area, settings I and II, manual labels, and settings out of range."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dataloaders.episode_settings import AugmentationRanges, EpisodeConfig
from dataloaders.episodes import EpisodeDataset
from util.errors import UserError

CONFIG = EpisodeConfig(seed=11, n_episodes=60)


def test_the_minimum_area_scales_with_the_slice(make_scan):
    # 64 x 64 is a sixteenth of 256 x 256: 200 px become 12.5.
    supervoxels = np.zeros((4, 64, 64), np.int32)
    supervoxels[:2, 0, :13] = 1
    supervoxels[2:, 0, :12] = 2
    dataset = EpisodeDataset([make_scan(1, shape=(4, 64, 64), supervoxels=supervoxels)], CONFIG)
    np.testing.assert_array_equal(dataset.index.target_ids, [1])


@pytest.fixture
def labelled(make_scan):
    """A scan of ten slices: organ 1 in 0-3, organ 4 in 3-6, organ 2 in 6-9; each 16 x 16."""
    label_map = np.zeros((10, 32, 32))
    label_map[0:4, :16, :16] = 1
    label_map[3:7, 16:, 16:] = 4
    label_map[6:10, :16, 16:] = 2
    return make_scan(5, shape=(10, 32, 32), label_map=label_map)


def used_slices(dataset):
    return sorted({int(z) for i in range(len(dataset)) for z in dataset[i]["slice_indices"]})


@pytest.mark.parametrize(
    ("exclude_labels", "rule", "expected"),
    [
        ((), "any", list(range(10))),
        ((1, 4), "any", [7, 8, 9]),
        # Only slice 3 holds both.
        ((1, 4), "all", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        ((2,), "any", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_setting_two_never_uses_slices_with_excluded_organs(
    make_scan, labelled, exclude_labels, rule, expected
):
    one_piece = replace(labelled, supervoxels=np.ones((10, 32, 32), np.int32))
    config = replace(CONFIG, n_episodes=150, exclude_labels=exclude_labels, exclude_rule=rule)
    assert used_slices(EpisodeDataset([one_piece], config)) == expected


def test_manual_labels_replace_the_supervoxels(labelled):
    config = replace(CONFIG, use_gt=True, train_labels=(1, 2), augmentation=AugmentationRanges.disabled())
    scan = replace(labelled, supervoxels=None)
    dataset = EpisodeDataset([scan], config)
    seen = Counter()
    for episode in (dataset[i] for i in range(len(dataset))):
        label = int(episode["supervoxel_id"])
        support, query = scan.label_map[episode["slice_indices"].numpy()] == label
        np.testing.assert_array_equal(episode["support_masks"][0], support)
        np.testing.assert_array_equal(episode["query_masks"][0], query)
        seen[label] += 1
    assert seen.keys() == {1, 2}


def test_manual_labels_and_setting_two_go_together(labelled):
    config = replace(CONFIG, use_gt=True, train_labels=(2,), exclude_labels=(1, 4))
    assert used_slices(EpisodeDataset([labelled], config)) == [7, 8, 9]


def test_the_configuration_determines_what_scans_need():
    assert (CONFIG.needs_labels, CONFIG.needs_supervoxels) == (False, True)
    excluding = replace(CONFIG, exclude_labels=(1,))
    assert (excluding.needs_labels, excluding.needs_supervoxels) == (True, True)
    manual = replace(CONFIG, use_gt=True, train_labels=(1,))
    assert (manual.needs_labels, manual.needs_supervoxels) == (True, False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"n_episodes": 0}, "n_episodes=0: must be at least 1"),
        ({"n_shots": 0}, "n_shots=0: must be at least 1"),
        ({"max_gap": 0}, "max_gap=0: must be at least 1"),
        ({"n_half_size": -1}, "n_half_size=-1: must be at least 0"),
        ({"min_size_px": float("nan")}, "min_size_px=nan: must be at least 1"),
        ({"exclude_rule": "most"}, "exclude_rule=most: must be any or all"),
        ({"use_gt": True}, "use_gt=True: no label is left"),
        ({"exclude_labels": (0,)}, r"exclude_labels=\(0,\): must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **setting)


def test_slices_of_different_sizes_name_both_scans(make_scan):
    pair = [make_scan(4), make_scan(6, shape=(6, 32, 40))]
    with pytest.raises(UserError, match=r"\(32, 32\) in scan 4 and \(32, 40\) in scan 6; set image_size_px"):
        EpisodeDataset(pair, CONFIG)


def test_no_scans_are_refused():
    with pytest.raises(UserError, match="at least one scan"):
        EpisodeDataset([], CONFIG)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"min_size_px": 60000},
            r"none of 3 .* a supervoxel in 2 .* at this slice size\); lower min_size, or lower n_sv",
        ),
        ({"n_shots": 7}, "in 8 consecutive slices.*, or lower n_shot"),
        ({"n_shots": 7, "max_gap": 3}, "in 8 slices in equal steps of 1 to 3, .*, or lower n_shot"),
    ],
)
def test_when_nothing_can_be_sampled_a_hint_is_printed(scans, setting, message):
    with pytest.raises(UserError, match=message):
        EpisodeDataset(scans, replace(CONFIG, **setting))


def test_when_everything_is_excluded_a_hint_is_printed(labelled):
    with pytest.raises(UserError, match=r"exclude fewer slices \(exclude_label=\[1, 2, 4\]\)"):
        EpisodeDataset([labelled], replace(CONFIG, exclude_labels=(1, 2, 4)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"exclude_labels": (1,)}, "scan 4: must be loaded with labels"),
        ({}, "scan 4: must be loaded with supervoxels"),
    ],
)
def test_scans_loaded_without_what_is_needed_are_refused(make_scan, setting, message):
    scan = make_scan(4)
    if not setting:
        scan = replace(scan, supervoxels=None)
    with pytest.raises(ValueError, match=message):
        EpisodeDataset([scan], replace(CONFIG, **setting))
