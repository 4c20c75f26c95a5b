"""Episodes are dealt out to ranks step by step."""

import pytest

from dataloaders.sharding import episodes_of_rank


def shares(episodes, batch_size, n_ranks):
    return [
        list(episodes_of_rank(episodes, batch_size, rank=rank, n_ranks=n_ranks)) for rank in range(n_ranks)
    ]


@pytest.mark.parametrize(
    ("episodes", "batch_size", "expected"),
    [
        (range(6), 1, [[0, 2, 4], [1, 3, 5]]),
        (range(8), 2, [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (range(4, 12), 2, [[4, 5, 8, 9], [6, 7, 10, 11]]),
        (range(6), 1, [[0, 3], [1, 4], [2, 5]]),
        (range(6, 6), 1, [[], [], []]),
        (range(3, 8), 2, [[3, 4, 5, 6, 7]]),
    ],
)
def test_each_step_is_dealt_out_in_blocks_in_rank_order(episodes, batch_size, expected):
    assert shares(episodes, batch_size, len(expected)) == expected


@pytest.mark.parametrize(("n_ranks", "batch_size"), [(2, 3), (4, 1), (3, 5)])
def test_all_shares_together_are_all_episodes_once(n_ranks, batch_size):
    episodes = range(2 * n_ranks * batch_size, 7 * n_ranks * batch_size)
    dealt = shares(episodes, batch_size, n_ranks)
    assert sorted(index for share in dealt for index in share) == list(episodes)
    assert {len(share) for share in dealt} == {5 * batch_size}


@pytest.mark.parametrize(
    ("episodes", "rank", "message"),
    [
        (range(6), 0, "2 ranks with batches of 2 must begin and end at multiples of 4, got episodes 0 to 6"),
        (range(2, 6), 0, "got episodes 2 to 6"),
        (range(8), 2, "rank must be 0 to 1, got 2"),
        (range(8), -1, "rank must be 0 to 1, got -1"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(episodes, rank, message):
    with pytest.raises(ValueError, match=message):
        episodes_of_rank(episodes, 2, rank=rank, n_ranks=2)
