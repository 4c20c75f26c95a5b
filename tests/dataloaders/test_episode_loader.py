"""Loading: (seed, index) alone for any number of workers, going on, no global state."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from dataloaders.episode_settings import EpisodeConfig
from dataloaders.episodes import EpisodeDataset, make_episode_loader
from util.errors import UserError

CONFIG = EpisodeConfig(seed=11, n_episodes=60)


def assert_equal_episodes(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=0)


def test_an_episode_depends_on_seed_and_index_alone(scans):
    dataset = EpisodeDataset(scans, CONFIG)
    first = dataset[7]
    dataset[3]
    np.random.seed(5)  # noqa: NPY002 - the global states must not matter
    torch.manual_seed(5)
    assert_equal_episodes(first, dataset[7])
    assert_equal_episodes(first, EpisodeDataset(scans, replace(CONFIG, n_episodes=8))[7])
    for other in (dataset[8], EpisodeDataset(scans, replace(CONFIG, seed=12))[7]):
        assert not torch.equal(first["query_images"], other["query_images"])


def test_the_loader_gives_the_same_batches_for_any_number_of_workers(scans):
    dataset = EpisodeDataset(scans, replace(CONFIG, n_episodes=10))
    per_workers = [
        list(make_episode_loader(dataset, batch_size=4, num_workers=workers)) for workers in (0, 1, 2)
    ]
    for batches in per_workers:
        assert [batch["episode_index"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        for batch, expected in zip(batches, per_workers[0], strict=True):
            assert_equal_episodes(batch, expected)
    assert per_workers[0][0]["support_images"].shape == (4, 1, 1, 32, 32)
    assert_equal_episodes({key: value[1] for key, value in per_workers[0][1].items()}, dataset[5])


def test_a_loader_resumes_where_an_earlier_one_stopped(scans):
    dataset = EpisodeDataset(scans, replace(CONFIG, n_episodes=10))
    whole = list(make_episode_loader(dataset, batch_size=2, num_workers=0))
    rest = list(make_episode_loader(dataset, batch_size=2, num_workers=0, start_episode=6))
    for batch, expected in zip(rest, whole[3:], strict=True):
        assert_equal_episodes(batch, expected)
    assert list(make_episode_loader(dataset, batch_size=2, num_workers=0, start_episode=10)) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_ranks_together_play_what_one_with_their_batches_joined_would(scans, num_workers):
    dataset = EpisodeDataset(scans, replace(CONFIG, n_episodes=12))
    settings = {"num_workers": num_workers, "start_episode": 4}
    whole = list(make_episode_loader(dataset, batch_size=4, **settings))
    per_rank = [
        list(make_episode_loader(dataset, batch_size=2, rank=rank, n_ranks=2, **settings)) for rank in (0, 1)
    ]
    indices = [[batch["episode_index"].tolist() for batch in batches] for batches in per_rank]
    assert indices == [[[4, 5], [8, 9]], [[6, 7], [10, 11]]]
    for step, expected in enumerate(whole):
        halves = [batches[step] for batches in per_rank]
        assert_equal_episodes({key: torch.cat([half[key] for half in halves]) for key in expected}, expected)


def test_ranks_that_would_take_unequal_shares_are_a_defect(scans):
    dataset = EpisodeDataset(scans, replace(CONFIG, n_episodes=10))
    with pytest.raises(ValueError, match="must start and stop at multiples of 4, got episodes 0 to 10"):
        make_episode_loader(dataset, batch_size=2, num_workers=0, rank=0, n_ranks=2)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_leaves_the_global_random_states_and_the_volumes_alone(scans, num_workers):
    before = [(scan.image.copy(), scan.supervoxels.copy()) for scan in scans]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for batch in make_episode_loader(EpisodeDataset(scans, CONFIG), batch_size=20, num_workers=num_workers):
        # What a consumer does to its batch must not reach the volumes.
        for value in batch.values():
            value.zero_()
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    for scan, (image, supervoxels) in zip(scans, before, strict=True):
        np.testing.assert_array_equal(scan.image, image)
        np.testing.assert_array_equal(scan.supervoxels, supervoxels)


def test_importing_or_building_sets_no_thread_count(scans):
    threads = cv2.getNumThreads()
    list(
        make_episode_loader(EpisodeDataset(scans, replace(CONFIG, n_episodes=2)), batch_size=1, num_workers=0)
    )
    assert cv2.getNumThreads() == threads


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"start_episode": 61}, "cannot resume at episode 61 of 60"),
    ],
)
def test_an_impossible_loader_is_refused(scans, setting, message):
    with pytest.raises(UserError, match=message):
        make_episode_loader(EpisodeDataset(scans, CONFIG), **{"batch_size": 1, "num_workers": 0, **setting})
