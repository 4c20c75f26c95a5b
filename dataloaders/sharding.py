"""Shard episodes and evaluation jobs over the ranks of a distributed run."""

from collections.abc import Sequence

from dataloaders.evaluation_sets import Job


def episodes_of_rank(episodes: range, batch_size: int, *, rank: int, n_ranks: int) -> Sequence[int]:
    """Return the episodes of one rank.

    A step's `n_ranks * batch_size` episodes are assigned in blocks of `batch_size`, in rank order, so that
    each step covers the episodes of a single rank with that batch size.

    Args:
        episodes: those of all ranks, step by step.
        batch_size: episodes per rank and step.
        rank: 0 to `n_ranks - 1`.
        n_ranks: with one rank, it gets all.

    Raises:
        ValueError: there is no such rank, or the episodes start or stop within a step of several ranks.
    """
    if not 0 <= rank < n_ranks:
        raise ValueError(f"rank must be 0 to {n_ranks - 1}, got {rank}")
    if n_ranks == 1:
        return episodes
    per_step = n_ranks * batch_size
    if episodes.start % per_step or len(episodes) % per_step:
        raise ValueError(
            f"{n_ranks} ranks with batches of {batch_size} must start and stop at multiples of {per_step}, "
            f"got episodes {episodes.start} to {episodes.stop}"
        )
    return [index for index in episodes if index % per_step // batch_size == rank]


def episodes_of_step(step: int, batch_size: int, *, rank: int, n_ranks: int) -> range:
    """Return one rank's episodes in a step, counted from 1."""
    start = ((step - 1) * n_ranks + rank) * batch_size
    return range(start, start + batch_size)


def jobs_of_rank(jobs: Sequence[Job], *, rank: int, n_ranks: int) -> list[Job]:
    """Assign jobs to ranks by query, largest first, to the least loaded rank.

    A query's jobs stay together, because they share the encoding of its slices.

    Returns:
        The rank's jobs, in order; may be empty with more ranks than queries.
    """
    n_slices: dict[int, int] = {}
    for job in jobs:
        query_id = job.query.scan_id
        n_slices[query_id] = n_slices.get(query_id, 0) + len(job.assignment.slices)
    load, query_ids = [0] * n_ranks, set()
    for query_id in sorted(n_slices, key=lambda query_id: (-n_slices[query_id], query_id)):
        least_loaded = load.index(min(load))
        load[least_loaded] += n_slices[query_id]
        if least_loaded == rank:
            query_ids.add(query_id)
    return [job for job in jobs if job.query.scan_id in query_ids]
