"""Episodes: content against the volumes, and both sides augmented."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dataloaders.episode_settings import AugmentationRanges, EpisodeConfig
from dataloaders.episodes import EpisodeDataset
from dataloaders.intensities import apply_gamma
from dataloaders.prepared_scans import resize_scan
from tests.dataloaders.test_episode_loader import assert_equal_episodes
from util.errors import UserError

PLAIN = AugmentationRanges.disabled()
CONFIG = EpisodeConfig(seed=11, n_episodes=60)


def raw_windows(scans, episode):
    """The episode's slices of image and target as they stand in the volumes, support first."""
    scan = next(scan for scan in scans if scan.scan_id == episode["scan_id"])
    slices = episode["slice_indices"].numpy()
    return scan.image[slices], scan.supervoxels[slices] == int(episode["supervoxel_id"])


def sides(episode):
    """Images and masks `(n_shots + 1, H, W)`, support first."""
    images = torch.cat([episode["support_images"], episode["query_images"]])[:, 0].numpy()
    return images, torch.cat([episode["support_masks"], episode["query_masks"].float()]).numpy()


def test_an_episode_has_the_promised_shapes_and_types(scans):
    episode = EpisodeDataset(scans, replace(CONFIG, n_shots=2))[5]
    result = {key: (tuple(value.shape), value.dtype) for key, value in episode.items()}
    assert result == {
        "support_images": ((2, 1, 32, 32), torch.float32),
        "support_masks": ((2, 32, 32), torch.float32),
        "query_images": ((1, 1, 32, 32), torch.float32),
        "query_masks": ((1, 32, 32), torch.int64),
        "episode_index": ((), torch.int64),
        "scan_id": ((), torch.int64),
        "supervoxel_id": ((), torch.int64),
        "slice_indices": ((3,), torch.int64),
    }
    assert episode["episode_index"] == 5


def test_the_first_episodes_may_have_slices_of_half_the_size(scans):
    dataset = EpisodeDataset(scans, replace(CONFIG, n_half_size=5))
    small = EpisodeDataset([resize_scan(scan, (16, 16)) for scan in scans], CONFIG)
    full = EpisodeDataset(scans, CONFIG)
    assert small[0]["query_images"].shape[-2:] == (16, 16)
    for index in (0, 4, 5, 59):
        assert_equal_episodes(dataset[index], (small if index < 5 else full)[index])
    assert dataset.slice_size_px == (32, 32)
    assert dataset.content_hash() == full.content_hash()


def test_slices_too_small_to_be_halved_are_refused(make_scan):
    scan = make_scan(1, shape=(6, 31, 64))
    with pytest.raises(UserError, match=r"half_size_share: slices .* 15 x 32 px; they need at least 16"):
        EpisodeDataset([scan], replace(CONFIG, n_half_size=1))


@pytest.mark.parametrize("n_shots", [1, 2])
def test_without_augmentation_an_episode_is_what_the_volumes_hold(scans, n_shots):
    dataset = EpisodeDataset(scans, replace(CONFIG, n_shots=n_shots, augmentation=PLAIN))
    steps = Counter()
    for episode in (dataset[i] for i in range(len(dataset))):
        images, masks = sides(episode)
        raw_images, raw_masks = raw_windows(scans, episode)
        np.testing.assert_allclose(images, raw_images, atol=1e-5)
        np.testing.assert_array_equal(masks, raw_masks)
        assert masks.any(axis=(1, 2)).all()
        step = set(np.diff(episode["slice_indices"]).tolist())
        assert len(step) == 1
        steps[step.pop()] += 1
    assert steps.keys() == {1, -1}
    assert min(steps.values()) > 15


def test_every_scan_and_many_targets_are_sampled(scans):
    dataset = EpisodeDataset(scans, replace(CONFIG, n_episodes=100, augmentation=PLAIN))
    drawn = Counter((int(e["scan_id"]), int(e["supervoxel_id"])) for e in (dataset[i] for i in range(100)))
    assert {scan_id for scan_id, _ in drawn} == {2, 4, 9}
    assert len(drawn) > 20


def changed_sides(scans, dataset):
    """Count which images and which masks differ from the volumes: s(upport), q(uery), both, none."""
    image_sides, mask_sides = Counter(), Counter()
    for episode in (dataset[i] for i in range(len(dataset))):
        for result, raw, counter in zip(
            sides(episode), raw_windows(scans, episode), (image_sides, mask_sides), strict=True
        ):
            differs = np.abs(result - raw).max(axis=(1, 2)) > 1e-4
            counter["s" * bool(differs[0]) + "q" * bool(differs[1])] += 1
    return image_sides, mask_sides


def test_gamma_changes_one_side_either_one_half_of_the_time(scans):
    ranges = PLAIN.model_copy(update={"gamma": (0.5, 0.8)})
    config = replace(CONFIG, n_episodes=200, augmentation=ranges)
    image_sides, mask_sides = changed_sides(scans, EpisodeDataset(scans, config))
    assert image_sides.keys() == {"s", "q"}
    # Five standard deviations of 200 fair draws.
    assert abs(image_sides["s"] - 100) < 36
    assert mask_sides == {"": 200}


def test_the_warp_changes_one_side_either_one_half_of_the_time(scans):
    ranges = PLAIN.model_copy(update={"scale": (0.8, 0.85)})
    config = replace(CONFIG, n_episodes=200, augmentation=ranges)
    image_sides, mask_sides = changed_sides(scans, EpisodeDataset(scans, config))
    assert image_sides.keys() == {"s", "q"}
    assert abs(image_sides["s"] - 100) < 36
    assert mask_sides == image_sides


def test_the_sides_of_gamma_and_warp_are_chosen_independently(scans):
    ranges = PLAIN.model_copy(update={"scale": (0.8, 0.85), "gamma": (0.5, 0.8)})
    config = replace(CONFIG, n_episodes=200, augmentation=ranges)
    image_sides, _ = changed_sides(scans, EpisodeDataset(scans, config))
    # Both on one side leaves the other one plain: a quarter of the episodes each way; else both differ.
    assert image_sides.keys() == {"s", "q", "sq"}
    assert abs(image_sides["sq"] - 100) < 36


def test_all_shots_get_the_same_gamma(scans):
    config = replace(CONFIG, n_shots=2, augmentation=PLAIN.model_copy(update={"gamma": (0.5, 0.8)}))
    dataset = EpisodeDataset(scans, config)
    n_support = 0
    for episode in (dataset[i] for i in range(20)):
        images, _ = sides(episode)
        raw_images, _ = raw_windows(scans, episode)
        exponents = [fitted_gamma(*pair) for pair in zip(images, raw_images, strict=True)]
        assert exponents[0] == pytest.approx(exponents[1], abs=1e-3)
        n_support += exponents[0] < 0.9
        assert (exponents[0] < 0.9) != (exponents[2] < 0.9)
    assert 0 < n_support < 20


def fitted_gamma(image, raw):
    candidates = np.linspace(0.45, 1.05, 601)
    errors = [np.abs(apply_gamma(raw, gamma) - image).max() for gamma in candidates[::10]]
    near = candidates[max(0, 10 * int(np.argmin(errors)) - 10) :][:21]
    return min(near, key=lambda gamma: np.abs(apply_gamma(raw, gamma) - image).mean())


def test_all_shots_get_the_same_warp(make_scan):
    scan = make_scan(1)
    constant = np.broadcast_to(scan.image[:1], scan.image.shape).copy()
    still = replace(scan, image=constant, supervoxels=np.broadcast_to(scan.supervoxels[:1], constant.shape))
    ranges = AugmentationRanges(gamma=(1, 1))
    dataset = EpisodeDataset([still], replace(CONFIG, n_shots=3, augmentation=ranges))
    for episode in (dataset[i] for i in range(10)):
        for values in (episode["support_images"], episode["support_masks"]):
            assert (values == values[:1]).all()


def test_masks_stay_binary_and_never_empty(scans):
    dataset = EpisodeDataset(scans, replace(CONFIG, n_episodes=100))
    for i in range(100):
        _, masks = sides(dataset[i])
        assert set(np.unique(masks)) == {0.0, 1.0}
        assert masks.any(axis=(1, 2)).all()


def test_a_warp_that_loses_the_target_is_left_out(scans):
    # 8000 px at 256 x 256 are up to 1000 px here: nearly every shift leaves the slice.
    ranges = PLAIN.model_copy(update={"shift_px": 8000})
    dataset = EpisodeDataset(scans, replace(CONFIG, augmentation=ranges))
    n_kept = 0
    for i in range(20):
        _, masks = sides(dataset[i])
        assert masks.any(axis=(1, 2)).all()
        n_kept += np.array_equal(masks, raw_windows(scans, dataset[i])[1])
    assert n_kept > 15


def test_an_episode_shares_no_memory_with_the_volumes(scans):
    episode = EpisodeDataset(scans, replace(CONFIG, augmentation=PLAIN))[0]
    for value in episode.values():
        assert not any(np.shares_memory(value.numpy(), scan.image) for scan in scans)


def test_odd_sizes_work(make_scan):
    dataset = EpisodeDataset([make_scan(1, shape=(4, 33, 29))], CONFIG)
    assert dataset[0]["query_images"].shape == (1, 1, 33, 29)


@pytest.mark.parametrize("index", [-1, 60])
def test_an_index_out_of_range_is_refused(scans, index):
    with pytest.raises(IndexError, match=f"episode {index}: must be 0 to 59"):
        EpisodeDataset(scans, CONFIG)[index]
