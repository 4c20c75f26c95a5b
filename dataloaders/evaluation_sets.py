"""Scans with labels, the assignment of support slices, and jobs to score."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.layout import DatasetLayout
from dataloaders.prepared_scans import load_scan
from util.evaluation.metrics import VolumeScore, measure_masks
from util.evaluation.postprocess import THRESHOLD
from util.io.image_io import Geometry


@dataclass(frozen=True)
class EvaluationScan:
    """A held-out scan, at the network's slice size and at full size.

    Attributes:
        scan_id: its id.
        images: `(Z, 1, h, w)` float32, z-scored, at the network's slice size.
        support_labels: `(Z, h, w)`, labels at that size, for use as support.
        label_map: `(Z, H, W)`, labels at full size, for scores.
        geometry: of the full-size grid.
        label_path: the labels' file, for messages; None if they were not read from one.
    """

    scan_id: int
    images: torch.Tensor
    support_labels: np.ndarray
    label_map: np.ndarray
    geometry: Geometry
    label_path: Path | None = None


def load_evaluation_scan(
    layout: DatasetLayout, scan_id: int, *, image_size_px: tuple[int, int] | None, with_image: bool = True
) -> EvaluationScan:
    """Load a scan with its labels; arguments and errors are those of `load_scan`."""
    scan = load_scan(layout, scan_id, with_image=with_image, with_labels=True, image_size_px=image_size_px)
    return EvaluationScan(
        scan_id=scan_id,
        images=torch.from_numpy(scan.image)[:, None],
        support_labels=scan.label_map,
        label_map=scan.full_size_label_map,
        geometry=scan.geometry,
        label_path=layout.label_path(scan_id),
    )


@dataclass(frozen=True)
class Assignment:
    """The query slices to segment, and the support slice for each.

    Attributes:
        slices: positions in the query, increasing.
        parts: for each of them an index into the support slices.
    """

    slices: np.ndarray
    parts: np.ndarray


def find_organ_slices(label_map: np.ndarray, label: int) -> np.ndarray:
    """List the slices of a label map `(Z, H, W)` that contain an organ; may be empty."""
    return np.flatnonzero((label_map == label).any(axis=(1, 2)))


def choose_support_slices(slices: np.ndarray, n_part: int) -> np.ndarray:
    """Choose the middle slice of each of `n_part` equal parts.

    That of part i has index `int((2 i + 1) / (2 n_part) * n)`; for three parts they lie at 1/6, 1/2 and 5/6
    of the organ. Slices repeat if there are fewer than parts.

    Args:
        slices: the support's slices that contain the organ, at least one.
        n_part: number of parts.

    Raises:
        ValueError: there is no slice.
    """
    if len(slices) == 0:
        raise ValueError("the support must contain the organ")
    return np.array([slices[(2 * part + 1) * len(slices) // (2 * n_part)] for part in range(n_part)])


def assign_chunks(slices: np.ndarray, n_part: int) -> Assignment:
    """Split a query's organ slices into chunks, one per support slice.

    The boundaries are `linspace(0, n, n_part + 1)`, truncated to integers.
    """
    cuts = [part * len(slices) // n_part for part in range(n_part + 1)]
    return Assignment(slices=slices, parts=np.repeat(np.arange(n_part), np.diff(cuts)))


def assign_by_height(n_query_slices: int, support_slices: np.ndarray, n_support_slices: int) -> Assignment:
    """Assign to every query slice the support slice of the nearest relative height.

    The query's labels are not used. A slice's relative height is `(z + 1/2) / Z` in its own scan; ties go to
    the first support slice.
    """
    query_heights = (np.arange(n_query_slices) + 0.5) / n_query_slices
    support_heights = (np.asarray(support_slices) + 0.5) / n_support_slices
    nearest = np.abs(query_heights[:, None] - support_heights[None]).argmin(axis=1)
    return Assignment(slices=np.arange(n_query_slices), parts=nearest)


@dataclass(frozen=True)
class Job:
    """One organ to segment in one query with one support.

    Attributes:
        protocol: `chunks` or `all_slices`.
        support, query: the scans.
        label: the organ.
        support_slices: the support's slices, one per part.
        assignment: the query slices, and the part of each.
        main_support: whether the support is the protocol's.
    """

    protocol: str
    support: EvaluationScan
    query: EvaluationScan
    label: int
    support_slices: np.ndarray
    assignment: Assignment
    main_support: bool


def job_tensors(job: Job) -> dict[str, Any]:
    """Return a job's scans and slices as tensors, named as in `OrganQuery`."""
    return {
        "support_id": job.support.scan_id,
        "query_id": job.query.scan_id,
        "label": job.label,
        "support_images": job.support.images,
        "support_labels": torch.from_numpy(job.support.support_labels),
        "support_slices": job.support_slices.tolist(),
        "query_images": job.query.images,
        "slices": torch.from_numpy(job.assignment.slices),
        "parts": torch.from_numpy(job.assignment.parts),
        "size_px": job.query.label_map.shape[1:],
    }


def score_job(
    job: Job, probabilities: np.ndarray, *, method: str, fold: int, organ: str, nsd_tolerance_mm: float
) -> VolumeScore:
    """Score probabilities `(n, H, W)` against the query's labels on the same slices."""
    slices = job.assignment.slices
    metrics = measure_masks(
        probabilities > THRESHOLD,
        job.query.label_map[slices] == job.label,
        slices=slices,
        geometry=job.query.geometry,
        nsd_tolerance_mm=nsd_tolerance_mm,
    )
    return VolumeScore(
        method=method,
        protocol=job.protocol,
        fold=fold,
        support_id=job.support.scan_id,
        query_id=job.query.scan_id,
        label=job.label,
        organ=organ,
        main_support=job.main_support,
        n_slices=len(slices),
        **vars(metrics),
    )
