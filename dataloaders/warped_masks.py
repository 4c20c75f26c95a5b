"""Supports' labels on the grids of queries, by registration."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from data.registration.pairwise_registration import Registration, ScanVolume
from data.registration.registration_cache import register_pairs
from data.registration.registration_stages import MEASURES
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
        alternative: the same by another measure of similarity, if that succeeded, too.
    """

    transform: SpatialTransform | None
    masks: Mapping[int, np.ndarray]
    failure: str | None
    similarity: float | None = None
    alternative: "WarpedSupport | None" = None

    def candidates(self, label: int) -> list[np.ndarray]:
        """Return the label's mask by each registration that succeeded."""
        warped = (self,) if self.alternative is None else (self, self.alternative)
        return [each.masks[label] for each in warped if label in each.masks]


def warp_labels(
    registrations: Sequence[Registration],
    label_map: np.ndarray,
    geometry: Geometry,
    query_geometry: Geometry,
    *,
    labels: Iterable[int],
) -> WarpedSupport:
    """Warp labels of a support to a query's grid, unless all registrations failed.

    Args:
        registrations: of the support to the query, by one or both measures; the first that succeeded serves,
            with the next one as its alternative.
        label_map: the support's labels, `(Z, H, W)`.
        geometry, query_geometry: the grids.
        labels: the labels to warp.
    """
    warped, labels = None, list(labels)
    for registration in reversed(registrations):
        if registration.quality.failure is None:
            transform = registration.transform
            masks = warp_label_map(label_map, geometry, transform, query_geometry, labels=labels)
            warped = WarpedSupport(transform, masks, None, registration.quality.similarity, warped)
    return warped or WarpedSupport(None, {}, registrations[0].quality.failure)


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
        return self.candidates(job)[0]

    def candidates(self, job: Job) -> list[np.ndarray]:
        """Return the same by each registration; see `WarpedSupport.candidates`."""
        return self.by_pair[job.support.scan_id, job.query.scan_id].candidates(job.label)

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


def warp_supports(
    jobs: Sequence[Job], *, by_both: bool = False, cache_dir: Path | None, progress: bool = True
) -> WarpedMasks:
    """Register the main supports of jobs to their queries, and warp their organs.

    Args:
        jobs: of any queries, whose labels are not used.
        by_both: register every pair by both measures of similarity; False: by the second one only where the
            first failed.
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
    registrations: dict[tuple[int, int], list[Registration]] = {pair: [] for pair in pairs}
    for measure in MEASURES:
        missing = [pair for pair, done in registrations.items() if by_both or not any(map(_succeeded, done))]
        scans = [(volumes[support_id], volumes[query_id]) for support_id, query_id in missing]
        results = register_pairs(scans, measure=measure, cache_dir=cache_dir, progress=progress)
        for pair, registration in zip(missing, results, strict=True):
            registrations[pair].append(registration)
    by_pair = {}
    for key, (support, query) in pairs.items():
        grids = (support.label_map, support.geometry, query.geometry)
        by_pair[key] = warp_labels(registrations[key], *grids, labels=labels[support.scan_id])
    return WarpedMasks(by_pair)


def smooth_in_plane(
    mask: np.ndarray, spacing_mm: tuple[float, float, float], *, smoothing_mm: float
) -> np.ndarray:
    """Smooth the slices of a mask `(n, H, W)` by a Gaussian; 0 returns the mask."""
    if smoothing_mm == 0:
        return mask
    _, *in_plane_mm = spacing_mm
    return gaussian_filter(mask, (0.0, *(smoothing_mm / step for step in in_plane_mm)), mode="constant")


def _succeeded(registration: Registration) -> bool:
    return registration.quality.failure is None


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
