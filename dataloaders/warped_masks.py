"""A support's labels on the grids of its queries, by registration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from data.registration.pairwise_registration import ScanVolume
from data.registration.registration_cache import register_pairs
from data.registration.spatial_transform import warp_label_map
from dataloaders.evaluation_sets import EvaluationScan, Job
from util.io.image_io import Geometry


@dataclass(frozen=True)
class WarpedMasks:
    """The labels of one support, warped to its queries.

    Attributes:
        support_id: the support scan.
        masks: query id -> label -> probability, `(Z, H, W)` float32 of 0 to 1 on the query's full grid;
            without queries whose registration failed.
        spacing_mm: query id -> `(z, y, x)` of that grid.
        failures: query id -> why its registration failed.
    """

    support_id: int
    masks: Mapping[int, Mapping[int, np.ndarray]]
    spacing_mm: Mapping[int, tuple[float, float, float]]
    failures: Mapping[int, str]

    def serves(self, job: Job) -> bool:
        """Return whether a job's query has the masks of the job's support."""
        return job.support.scan_id == self.support_id and job.query.scan_id in self.masks

    def of_job(self, job: Job, *, smoothing_mm: float = 0.0) -> np.ndarray:
        """Return the mask of a job's organ in the job's slices, `(n, H, W)`.

        Args:
            job: one that `serves` accepts.
            smoothing_mm: standard deviation of a Gaussian within the slices.
        """
        mask = self.masks[job.query.scan_id][job.label][job.assignment.slices]
        return smooth_in_plane(mask, self.spacing_mm[job.query.scan_id], smoothing_mm=smoothing_mm)

    def segment(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, np.ndarray]]:
        """Yield jobs with their masks; a failed registration finds nothing."""
        for job in jobs:
            shape = (len(job.assignment.slices), *job.query.label_map.shape[1:])
            yield job, self.of_job(job) if self.serves(job) else np.zeros(shape, np.float32)

    def describe(self) -> list[str]:
        """Name the queries whose registration failed, in one line; empty if none did."""
        if not self.failures:
            return []
        names = "; ".join(f"scan {query_id}: {reason}" for query_id, reason in self.failures.items())
        return [f"warning: registration failed for {len(self.failures)} queries ({names})"]


def warp_to_queries(
    support: EvaluationScan,
    queries: Sequence[EvaluationScan],
    labels: Sequence[int],
    *,
    cache_dir: Path | None,
    progress: bool = True,
) -> WarpedMasks:
    """Register a support to its queries, and warp its labels.

    Args:
        support: the annotated scan.
        queries: other scans; their labels are not used.
        labels: the labels to warp.
        cache_dir: see `register_pairs`.
        progress: show a progress bar.

    Raises:
        UserError: as `register_pairs` does.
    """
    pairs = [(_volume(support), _volume(query)) for query in queries]
    registrations = register_pairs(pairs, cache_dir=cache_dir, progress=progress)
    masks, failures = {}, {}
    for query, registration in zip(queries, registrations, strict=True):
        if registration.quality.failure is not None:
            failures[query.scan_id] = registration.quality.failure
            continue
        masks[query.scan_id] = warp_label_map(
            support.label_map, support.geometry, registration.transform, query.geometry, labels=labels
        )
    spacing_mm = {query.scan_id: query.geometry.spacing_mm for query in queries}
    return WarpedMasks(support.scan_id, masks, spacing_mm, failures)


def smooth_in_plane(
    mask: np.ndarray, spacing_mm: tuple[float, float, float], *, smoothing_mm: float
) -> np.ndarray:
    """Smooth the slices of a mask `(n, H, W)` by a Gaussian; 0 returns the mask."""
    if smoothing_mm == 0:
        return mask
    _, *in_plane_mm = spacing_mm
    return gaussian_filter(mask, (0.0, *(smoothing_mm / step for step in in_plane_mm)), mode="constant")


def _volume(scan: EvaluationScan) -> ScanVolume:
    """Return a scan's image at the network's slice size, with its grid."""
    image = scan.images[:, 0].numpy()
    grid = resized_grid(scan.geometry, image.shape[1:])
    return ScanVolume(image, grid, name=f"scan {scan.scan_id}")


def resized_grid(geometry: Geometry, size_px: Sequence[int]) -> Geometry:
    """Return the grid of slices that were resized, pixel areas aligned, to `(h, w)`."""
    factors = np.divide(geometry.shape[1:], size_px)
    first_pixel = (0.0, *((factors - 1) / 2))
    return replace(
        geometry,
        shape=(geometry.shape[0], *map(int, size_px)),
        spacing_mm=(geometry.spacing_mm[0], *(float(x) for x in factors * geometry.spacing_mm[1:])),
        origin_mm=tuple(float(x) for x in geometry.position_mm(first_pixel)),
    )
