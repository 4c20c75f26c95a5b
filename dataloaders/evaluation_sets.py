"""Scans with labels, and the jobs of segmenting and scoring them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.layout import DatasetLayout
from dataloaders.prepared_scans import load_scan
from dataloaders.slice_assignment import Assignment
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
class Job:
    """One organ to segment in one query with one support.

    Attributes:
        protocol: `chunks` or `all_slices`.
        support, query: the scans.
        label: the organ.
        support_slices: the support's slices, one per part.
        assignment: the query slices, and the part that serves each.
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
