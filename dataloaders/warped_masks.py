"""Supports' labels on the grids of queries, by registration."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from data.registration.pairwise_registration import Registration, ScanVolume
from data.registration.registration_cache import register_pairs
from data.registration.spatial_transform import SpatialTransform, warp_label_map
from dataloaders.evaluation_sets import EvaluationScan, Job
from util.io.image_io import Geometry


@dataclass(frozen=True, eq=False)
class WarpedSupport:
    """A support registered to a query.

    Attributes:
        transform: from the query to the support; None if the registration failed.
        masks: label -> probability, `(Z, H, W)` float32 of 0 to 1 on the query's full grid; else empty.
        failure: why, in a few words; None if it succeeded.
        similarity: of the registered scans, see `Quality`; None if it failed.
    """

    transform: SpatialTransform | None
    masks: Mapping[int, np.ndarray]
    failure: str | None
    similarity: float | None = None


def warp_labels(
    registration: Registration,
    label_map: np.ndarray,
    geometry: Geometry,
    query_geometry: Geometry,
    *,
    labels: Iterable[int],
) -> WarpedSupport:
    """Warp labels of a support to a query's grid, unless registration failed.

    Args:
        registration: of the support to the query.
        label_map: the support's labels, `(Z, H, W)`.
        geometry, query_geometry: the grids.
        labels: the labels to warp.
    """
    if registration.quality.failure is not None:
        return WarpedSupport(None, {}, registration.quality.failure)
    masks = warp_label_map(label_map, geometry, registration.transform, query_geometry, labels=list(labels))
    return WarpedSupport(registration.transform, masks, None, registration.quality.similarity)


@dataclass(frozen=True)
class WarpedMasks:
    """The labels of the supports of a fold, warped to their queries.

    Attributes:
        by_pair: support id and query id -> the support on the query's grid.
    """

    by_pair: Mapping[tuple[int, int], WarpedSupport]

    def covers(self, job: Job) -> bool:
        """Return whether the masks of a job's support are warped to its query."""
        pair = self.by_pair.get((job.support.scan_id, job.query.scan_id))
        return pair is not None and pair.failure is None

    def mask_of_job(self, job: Job) -> np.ndarray:
        """Return the mask of a job's organ in the job's slices, `(n, H, W)`.

        `covers` must accept the job.
        """
        return self.mask_of_query(job)[job.assignment.slices]

    def mask_of_query(self, job: Job) -> np.ndarray:
        """Return the mask of a job's organ in all slices of its query; see `mask_of_job`."""
        return self.by_pair[job.support.scan_id, job.query.scan_id].masks[job.label]

    def segment(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, np.ndarray]]:
        """Yield jobs with their masks; a failed registration finds nothing."""
        for job in jobs:
            shape = (len(job.assignment.slices), *job.query.label_map.shape[1:])
            yield job, self.mask_of_job(job) if self.covers(job) else np.zeros(shape, np.float32)

    def describe(self) -> list[str]:
        """List the queries whose registration failed, a line per support."""
        failures: dict[int, list[str]] = {}
        for (support_id, query_id), pair in self.by_pair.items():
            if pair.failure is not None:
                failures.setdefault(support_id, []).append(f"scan {query_id}: {pair.failure}")
        return [
            f"warning: registration failed for {len(names)} queries ({'; '.join(names)})"
            for names in failures.values()
        ]


def warp_supports(jobs: Sequence[Job], *, cache_dir: Path | None, progress: bool = True) -> WarpedMasks:
    """Register the main supports of jobs to their queries, and warp their organs.

    Args:
        jobs: of any queries, whose labels are not used.
        cache_dir: see `register_pairs`.
        progress: show a progress bar.

    Raises:
        UserError: as `register_pairs` does.
    """
    pairs: dict[tuple[int, int], tuple[EvaluationScan, EvaluationScan]] = {}
    labels: dict[int, dict[int, None]] = {}
    for job in jobs:
        if job.main_support:
            pairs[job.support.scan_id, job.query.scan_id] = (job.support, job.query)
            labels.setdefault(job.support.scan_id, {})[job.label] = None
    volumes = {scan.scan_id: _volume(scan) for pair in pairs.values() for scan in pair}
    registrations = register_pairs(
        [(volumes[support_id], volumes[query_id]) for support_id, query_id in pairs],
        cache_dir=cache_dir,
        progress=progress,
    )
    by_pair = {}
    for (key, (support, query)), registration in zip(pairs.items(), registrations, strict=True):
        grids = (support.label_map, support.geometry, query.geometry)
        by_pair[key] = warp_labels(registration, *grids, labels=labels[support.scan_id])
    return WarpedMasks(by_pair)


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
