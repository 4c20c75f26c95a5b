"""The warped masks of all supports of a fold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.evaluation_sets import Job
from dataloaders.warped_masks import WarpedMasks, warp_to_queries


@dataclass(frozen=True)
class WarpedSupports:
    """The warped masks of several supports; organs may have different ones.

    Attributes:
        by_support: support id -> its masks on its queries.
    """

    by_support: Mapping[int, WarpedMasks]

    def serves(self, job: Job) -> bool:
        """Return whether a job's query has the masks of the job's support."""
        masks = self.by_support.get(job.support.scan_id)
        return masks is not None and masks.serves(job)

    def of_job(self, job: Job, *, smoothing_mm: float = 0.0) -> np.ndarray:
        """Return the mask of a job that `serves` accepts; see `WarpedMasks.of_job`."""
        return self.by_support[job.support.scan_id].of_job(job, smoothing_mm=smoothing_mm)

    def segment(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, np.ndarray]]:
        """Yield jobs on these supports with their masks; see `WarpedMasks.segment`."""
        for job in jobs:
            yield from self.by_support[job.support.scan_id].segment([job])

    def describe(self) -> list[str]:
        """Name the queries whose registration failed, a line per support."""
        return [line for masks in self.by_support.values() for line in masks.describe()]


def warp_supports(jobs: Sequence[Job], *, cache_dir: Path | None, progress: bool = True) -> WarpedSupports:
    """Register the main supports of jobs to their queries; see `warp_to_queries`."""
    main_jobs = [job for job in jobs if job.main_support]
    supports = {job.support.scan_id: job.support for job in main_jobs}
    by_support = {}
    for scan_id, support in supports.items():
        of_support = [job for job in main_jobs if job.support is support]
        queries = list({job.query.scan_id: job.query for job in of_support}.values())
        labels = list(dict.fromkeys(job.label for job in of_support))
        by_support[scan_id] = warp_to_queries(
            support, queries, labels, cache_dir=cache_dir, progress=progress
        )
    return WarpedSupports(by_support)
