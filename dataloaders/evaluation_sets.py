"""The evaluation protocol: which support slice serves which query slice."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.layout import DatasetLayout
from dataloaders.volumes import load_scan
from util.errors import UserError
from util.image_io import Geometry
from util.metrics import VolumeScore, overlap


@dataclass(frozen=True)
class EvaluationScan:
    """A held-out scan, at the network's slice size and at its own.

    Attributes:
        scan_id: its id.
        images: `(Z, 1, h, w)` float32, z-scored, at the network's slice size.
        support_labels: `(Z, h, w)`, labels at that size, for when the scan is the support.
        label_map: `(Z, H, W)`, labels at the scan's own size, for scores.
        geometry: of the scan's own grid.
        label_path: the labels' file, for messages; None where they come from none.
    """

    scan_id: int
    images: torch.Tensor
    support_labels: np.ndarray
    label_map: np.ndarray
    geometry: Geometry
    label_path: Path | None = None


@dataclass(frozen=True)
class Assignment:
    """Which of a query's slices are segmented, and after which of the support slices.

    Attributes:
        slices: positions in the query, increasing.
        parts: for each of them an index into the support slices.
    """

    slices: np.ndarray
    parts: np.ndarray


def load_evaluation_scan(
    layout: DatasetLayout, scan_id: int, *, image_size_px: tuple[int, int] | None
) -> EvaluationScan:
    """Load a scan with its labels.

    See `dataloaders.volumes.load_scan` for what is raised.
    """
    scan = load_scan(layout, scan_id, with_labels=True, image_size_px=image_size_px)
    own = scan
    if image_size_px is not None:
        own = load_scan(layout, scan_id, with_labels=True)
    return EvaluationScan(
        scan_id=scan_id,
        images=torch.from_numpy(scan.image)[:, None],
        support_labels=scan.label_map,
        label_map=own.label_map,
        geometry=scan.geometry,
        label_path=layout.label_path(scan_id),
    )


def organ_slices(label_map: np.ndarray, label: int) -> np.ndarray:
    """List the slices of a label map `(Z, H, W)` that contain an organ, in order.

    The list may be empty.
    """
    return np.flatnonzero((label_map == label).any(axis=(1, 2)))


def choose_support_slices(slices: np.ndarray, n_part: int) -> np.ndarray:
    """Take the middle slice of each of `n_part` equal parts.

    Part i's has index `int((2 i + 1) / (2 n_part) * n)`. For three parts those are at 1/6, 1/2 and 5/6 of the
    organ; few slices are taken repeatedly.

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
    """Cut a query's organ slices into `n_part` chunks.

    Support slice i serves chunk i. The cuts are at `linspace(0, n, n_part + 1)` truncated to whole numbers.
    """
    cuts = [part * len(slices) // n_part for part in range(n_part + 1)]
    return Assignment(slices=slices, parts=np.repeat(np.arange(n_part), np.diff(cuts)))


def assign_by_height(n_query_slices: int, support_slices: np.ndarray, n_support_slices: int) -> Assignment:
    """Serve every query slice by the support slice of the nearest relative height.

    The truth is not looked at. A slice's relative height is `(z + 1/2) / Z` in its own scan; of two equally
    near ones the first serves.
    """
    query_heights = (np.arange(n_query_slices) + 0.5) / n_query_slices
    support_heights = (np.asarray(support_slices) + 0.5) / n_support_slices
    nearest = np.abs(query_heights[:, None] - support_heights[None]).argmin(axis=1)
    return Assignment(slices=np.arange(n_query_slices), parts=nearest)


@dataclass(frozen=True)
class Job:
    """One organ to segment in one query after one support.

    Attributes:
        protocol: `chunks` or `all_slices`.
        support, query: the scans.
        label: the organ.
        support_slices: the support's slices, one per part.
        assignment: which query slices, and the part that serves each.
        main_support: whether the support is the one that the protocol names.
    """

    protocol: str
    support: EvaluationScan
    query: EvaluationScan
    label: int
    support_slices: np.ndarray
    assignment: Assignment
    main_support: bool


def check_support_position(position: int, n_scans: int) -> None:
    """Raise `UserError` unless a fold of `n_scans` scans has one at `position`."""
    if position >= n_scans:
        raise UserError(
            f"supp_idx={position}: the fold holds {n_scans} scans, counted from 0; choose a smaller one"
        )


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

    A query without an organ gets no job for it. With `every_support` the other scans take the support's role
    in turn, for the published protocol; of those, scans that have an organ in fewer than `n_part` slices are
    passed over for it.

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
        in_support = organ_slices(support.support_labels, label)
        if len(in_support) < n_part:
            continue
        chosen = choose_support_slices(in_support, n_part)
        for query in scans:
            in_query = organ_slices(query.label_map, label)
            if query is support or len(in_query) == 0:
                continue
            plans = {"chunks": assign_chunks(in_query, n_part)}
            if all_slices and support is main:
                plans["all_slices"] = assign_by_height(len(query.images), chosen, len(support.images))
            jobs += [
                Job(name, support, query, label, chosen, plan, support is main)
                for name, plan in plans.items()
            ]
    if not any(job.main_support for job in jobs):
        queries = ", ".join(_place(scan) for scan in scans if scan is not main)
        raise UserError(
            f"{queries}: must hold an organ of test_label ({', '.join(organs.values())}) in one of them at "
            "least; choose another fold or other organs"
        )
    return jobs


def score_job(job: Job, probabilities: np.ndarray, *, method: str, fold: int, organ: str) -> VolumeScore:
    """Score probabilities `(n, H, W)` against the query's labels on the same slices."""
    slices = job.assignment.slices
    dice, iou = overlap(probabilities > 0.5, job.query.label_map[slices] == job.label)
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
        dice=dice,
        iou=iou,
    )


def find_left_out(
    scans: Sequence[EvaluationScan], organs: Mapping[int, str], *, support: EvaluationScan
) -> list[str]:
    """Name the queries that lack an organ and so are left out of its mean."""
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
    found = len(organ_slices(support.support_labels, label))
    if found >= n_part:
        return
    others = [
        position
        for position, scan in enumerate(scans)
        if len(organ_slices(scan.support_labels, label)) >= n_part
    ]
    way_out = f"leave {label} out of test_label"
    if others:
        way_out = f"choose supp_idx={' or '.join(map(str, others))}, or {way_out}"
    if found:
        way_out = f"set n_part={found}, or {way_out}"
    raise UserError(
        f"{_place(support)}: scan {support.scan_id}, as support, must show label {label} ({organ}) in at "
        f"least {n_part} slices, got {found}; {way_out}"
    )


def _place(scan: EvaluationScan) -> str:
    return f"scan {scan.scan_id}" if scan.label_path is None else str(scan.label_path)
