"""The evaluation protocol: which support slice serves which query slice."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.layout import DatasetLayout
from dataloaders.prepared_scans import load_scan
from dataloaders.slice_assignment import (
    Assignment,
    assign_by_height,
    assign_chunks,
    choose_support_slices,
    find_organ_slices,
)
from dataloaders.splits import check_support_position, choose_support_position
from util.errors import UserError
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


def load_fold(
    layout: DatasetLayout, scan_ids: Iterable[int], *, image_size_px: tuple[int, int] | None
) -> list[EvaluationScan]:
    """Load the scans of a held-out fold; see `load_evaluation_scan`."""
    return [load_evaluation_scan(layout, scan_id, image_size_px=image_size_px) for scan_id in scan_ids]


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


def plan_jobs(
    scans: Sequence[EvaluationScan],
    organs: Mapping[int, str],
    *,
    support_position: int,
    n_part: int,
    all_slices: bool,
    every_support: bool,
) -> list[Job]:
    """Plan the evaluation of a fold.

    A query without an organ gets no job for it. With `every_support` the other scans serve as support in
    turn, for the published protocol; a scan with an organ in fewer than `n_part` slices is skipped for it.

    Args:
        scans: the fold's, in order.
        organs: the organs to evaluate, label -> name.
        support_position: the main support's position in `scans`.
        n_part: chunks of a query.
        all_slices: also plan every slice of each query, on the main support.
        every_support: also let every other scan be the support.

    Raises:
        UserError: the fold has no such position, the main support has an organ in fewer than `n_part` slices,
            or no query has any of the organs.
    """
    check_support_position(support_position, len(scans))
    main = scans[support_position]
    for label, organ in organs.items():
        _require_organ(scans, main, label, organ=organ, n_part=n_part)
    supports = [main, *(scan for scan in scans if scan is not main and every_support)]
    jobs = []
    for support, label in itertools.product(supports, organs):
        in_support = find_organ_slices(support.support_labels, label)
        if len(in_support) < n_part:
            continue
        support_slices = choose_support_slices(in_support, n_part)
        for query in scans:
            in_query = find_organ_slices(query.label_map, label)
            if query is support or len(in_query) == 0:
                continue
            plans = {"chunks": assign_chunks(in_query, n_part)}
            if all_slices and support is main:
                plans["all_slices"] = assign_by_height(len(query.images), support_slices, len(support.images))
            jobs += [
                Job(name, support, query, label, support_slices, plan, support is main)
                for name, plan in plans.items()
            ]
    if not any(job.main_support for job in jobs):
        queries = ", ".join(_name(scan) for scan in scans if scan is not main)
        raise UserError(
            f"{queries}: at least one must hold an organ of test_label ({', '.join(organs.values())}); "
            "choose another fold or other organs"
        )
    return jobs


def check_fold(
    layout: DatasetLayout,
    scan_ids: Sequence[int],
    organs: Mapping[int, str],
    *,
    supp_idx: int,
    n_part: int,
    image_size_px: tuple[int, int] | None,
) -> None:
    """Check, from label maps alone, that a fold can be evaluated.

    Args:
        layout: paths of the files.
        scan_ids: of the fold; if empty, nothing is checked.
        organs, n_part: see `plan_jobs`.
        supp_idx: see `choose_support_position`.
        image_size_px: see `load_scan`.

    Raises:
        UserError: a label file is missing or damaged; otherwise as `plan_jobs` does.
    """
    if not scan_ids:
        return
    position = choose_support_position(supp_idx, len(scan_ids))
    if layout.spec.is_synthetic:  # has all organs, and may not exist yet
        return
    scans = [
        load_evaluation_scan(layout, scan_id, image_size_px=image_size_px, with_image=False)
        for scan_id in scan_ids
    ]
    plan_jobs(scans, organs, support_position=position, n_part=n_part, all_slices=False, every_support=False)


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


def describe_missing_organs(
    scans: Sequence[EvaluationScan], organs: Mapping[int, str], *, support: EvaluationScan
) -> list[str]:
    """Name the queries that lack an organ and are therefore excluded from its mean."""
    lines = []
    for label, organ in organs.items():
        lacking = [s.scan_id for s in scans if s is not support and not (s.label_map == label).any()]
        if lacking:
            noun = "query" if len(lacking) == 1 else "queries"
            lines.append(f"{organ}: left out {len(lacking)} {noun} without it: scans {lacking}")
    return lines


def _require_organ(
    scans: Sequence[EvaluationScan], support: EvaluationScan, label: int, *, organ: str, n_part: int
) -> None:
    found = len(find_organ_slices(support.support_labels, label))
    if found >= n_part:
        return
    others = [
        position
        for position, scan in enumerate(scans)
        if len(find_organ_slices(scan.support_labels, label)) >= n_part
    ]
    hint = f"leave {label} out of test_label"
    if others:
        hint = f"choose supp_idx={' or '.join(map(str, others))}, or {hint}"
    if found:
        hint = f"set n_part={found}, or {hint}"
    raise UserError(
        f"{_name(support)}: scan {support.scan_id}, as support, must show label {label} ({organ}) in at "
        f"least {n_part} slices, got {found}; {hint}"
    )


def _name(scan: EvaluationScan) -> str:
    return f"scan {scan.scan_id}" if scan.label_path is None else str(scan.label_path)
