"""Episodes are dealt out to ranks step by step.

Evaluation is: every job once, a query's jobs together, the load even.
"""

import numpy as np
import pytest
import torch

from dataloaders.evaluation_sets import Assignment, EvaluationScan, Job
from dataloaders.sharding import episodes_of_rank, jobs_of_rank
from util.io.image_io import Geometry


def _episode_shares(episodes, batch_size, n_ranks):
    return [
        list(episodes_of_rank(episodes, batch_size, rank=rank, n_ranks=n_ranks)) for rank in range(n_ranks)
    ]


def _scan(scan_id):
    label_map = np.zeros((1, 2, 2), dtype=np.int16)
    geometry = Geometry(label_map.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    return EvaluationScan(scan_id, torch.zeros(1, 1, 2, 2), label_map, label_map, geometry)


def _job(query_id, n_slices, label=1):
    assignment = Assignment(slices=np.arange(n_slices), parts=np.zeros(n_slices, dtype=int))
    return Job("chunks", _scan(0), _scan(query_id), label, np.zeros(1, dtype=int), assignment, True)


def _job_shares(jobs, n_ranks):
    """Each rank's share as `(query, label)` pairs."""
    shares = [jobs_of_rank(jobs, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
    return [[(job.query.scan_id, job.label) for job in share] for share in shares]


def _random_jobs(seed):
    rng = np.random.default_rng(seed)
    jobs = [
        _job(query_id, int(rng.integers(1, 60)), label) for query_id in range(1, 12) for label in (1, 2, 3)
    ]
    return [jobs[position] for position in rng.permutation(len(jobs))]


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
    assert _episode_shares(episodes, batch_size, len(expected)) == expected


@pytest.mark.parametrize(("n_ranks", "batch_size"), [(2, 3), (4, 1), (3, 5)])
def test_all_shares_together_are_all_episodes_once(n_ranks, batch_size):
    episodes = range(2 * n_ranks * batch_size, 7 * n_ranks * batch_size)
    dealt = _episode_shares(episodes, batch_size, n_ranks)
    assert sorted(index for share in dealt for index in share) == list(episodes)
    assert {len(share) for share in dealt} == {5 * batch_size}


@pytest.mark.parametrize(
    ("episodes", "rank", "message"),
    [
        (range(6), 0, "2 ranks with batches of 2 must start and stop at multiples of 4, got episodes 0 to 6"),
        (range(2, 6), 0, "got episodes 2 to 6"),
        (range(8), 2, "rank must be 0 to 1, got 2"),
        (range(8), -1, "rank must be 0 to 1, got -1"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(episodes, rank, message):
    with pytest.raises(ValueError, match=message):
        episodes_of_rank(episodes, 2, rank=rank, n_ranks=2)


def test_the_largest_queries_go_first_each_to_the_least_loaded_rank():
    # 9 to rank 0, 7 to rank 1, 6 to rank 1 (13), 5 to rank 0 (14), 2 to rank 1 (15).
    jobs = [_job(1, 5), _job(2, 9), _job(3, 2), _job(4, 7), _job(5, 6)]
    assert _job_shares(jobs, 2) == [[(1, 1), (2, 1)], [(3, 1), (4, 1), (5, 1)]]


def test_all_of_a_querys_jobs_count_towards_its_size():
    # Query 1 has 4 + 4 slices, more than query 2's 7; query 3 goes to rank 1, with 7 so far.
    jobs = [_job(2, 7), _job(1, 4), _job(3, 1), _job(1, 4, label=2)]
    assert _job_shares(jobs, 2) == [[(1, 1), (1, 2)], [(2, 1), (3, 1)]]


def test_equally_large_queries_go_by_their_ids_and_to_the_lower_rank():
    jobs = [_job(9, 3), _job(4, 3), _job(7, 3)]
    assert _job_shares(jobs, 2) == [[(9, 1), (4, 1)], [(7, 1)]]


def test_one_rank_does_all_in_order():
    jobs = _random_jobs(0)
    assert jobs_of_rank(jobs, rank=0, n_ranks=1) == jobs


@pytest.mark.parametrize("n_ranks", [2, 3, 5, 11, 20])
def test_every_job_is_done_once_in_order_and_queries_stay_whole(n_ranks):
    for seed in range(5):
        jobs = _random_jobs(seed)
        shares = [jobs_of_rank(jobs, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
        positions = [
            [position for job in share for position, j in enumerate(jobs) if j is job] for share in shares
        ]
        assert sorted(workspace for of_rank in positions for workspace in of_rank) == list(range(len(jobs)))
        assert all(of_rank == sorted(of_rank) for of_rank in positions)
        queries = [{job.query.scan_id for job in share} for share in shares]
        assert sum(map(len, queries)) == 11


def test_ranks_beyond_the_queries_have_nothing_to_do():
    shares = _job_shares([_job(1, 5), _job(2, 9)], 4)
    assert shares == [[(2, 1)], [(1, 1)], [], []]
    assert _job_shares([], 2) == [[], []]


def test_no_rank_has_more_than_the_fair_share_by_a_query():
    jobs = _random_jobs(3)
    of_query = {}
    for job in jobs:
        of_query[job.query.scan_id] = of_query.get(job.query.scan_id, 0) + len(job.assignment.slices)
    for n_ranks in (2, 3, 4):
        loads = [
            sum(len(job.assignment.slices) for job in jobs_of_rank(jobs, rank=rank, n_ranks=n_ranks))
            for rank in range(n_ranks)
        ]
        assert max(loads) - min(loads) <= max(of_query.values())
