"""Queries and supports of a fold, and the support slice of each query slice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from data.layout import DatasetLayout
from dataloaders.evaluation_sets import (
    EvaluationScan,
    Job,
    assign_by_height,
    assign_chunks,
    choose_support_slices,
    find_organ_slices,
    load_evaluation_scan,
)
from dataloaders.splits import Split
from dataloaders.support_choice import choose_support_position, choose_supports, list_candidates
from util.errors import UserError


@dataclass(frozen=True)
class EvaluationFold:
    """The scans of a fold in their parts.

    Attributes:
        queries: the held-out scans, in id order. A support among them is no query of its own organ.
        supports: label -> the annotated scan.
        remarks: which organs have another support than the requested one, or none.
    """

    queries: Sequence[EvaluationScan]
    supports: Mapping[int, EvaluationScan]
    remarks: Sequence[str] = ()


def load_fold(
    layout: DatasetLayout,
    split: Split,
    organs: Mapping[int, str],
    *,
    support_scans: str,
    supp_idx: int,
    n_part: int,
    image_size_px: tuple[int, int] | None,
    with_images: bool = True,
) -> EvaluationFold:
    """Load the scans of a held-out fold, and choose the support of each organ.

    Args:
        layout: paths of the files.
        split: of the scans.
        organs: the organs to evaluate, label -> name.
        support_scans: see `list_candidates`.
        supp_idx: see `choose_support_position`.
        n_part: how many slices of a support must contain its organ.
        image_size_px, with_images: see `load_scan`.

    Raises:
        UserError: there is no such position, no organ has a support, or a file is missing or damaged.
    """
    candidates = list_candidates(split, support_scans)
    position = choose_support_position(supp_idx, len(candidates), support_scans=support_scans)
    load = partial(load_evaluation_scan, layout, image_size_px=image_size_px, with_image=with_images)
    queries = {scan_id: load(scan_id) for scan_id in split.held_out}
    supports, remarks = choose_supports(
        candidates,
        organs,
        position=position,
        n_slices=n_part,
        load=lambda scan_id: queries.get(scan_id) or load(scan_id),
        count_slices=_count_organ_slices,
    )
    if not supports:
        raise UserError(
            f"{layout.label_path(candidates[position])}: the support must show an organ of test_label "
            f"({', '.join(organs.values())}) in at least {n_part} slices, and so does none of the "
            f"{len(candidates)} scans that may be it; choose other organs, or set a smaller n_part"
        )
    return EvaluationFold(tuple(queries.values()), supports, remarks)


def plan_jobs(
    fold: EvaluationFold,
    organs: Mapping[int, str],
    *,
    n_part: int,
    chunks: bool = True,
    all_slices: bool = True,
    every_support: bool = False,
) -> list[Job]:
    """Plan the evaluation of a fold.

    A query without an organ has no chunks of it.

    Args:
        fold: its queries, and the main support of each organ.
        organs: the organs to evaluate, label -> name; those without support are skipped.
        n_part: chunks of a query.
        chunks: plan the slices that contain the organ, in chunks.
        all_slices: plan every slice of each query, on the main support; of a query without the organ, too,
            where anything predicted is wrong.
        every_support: also use every other scan of the fold as support, for the chunks; one with an
            organ in fewer than `n_part` slices is skipped for it.

    Raises:
        UserError: no query has any of the organs.
    """
    pairs = [(fold.supports[label], label) for label in organs if label in fold.supports]
    if every_support:
        pairs += [
            (scan, label)
            for scan in fold.queries
            for label in organs
            if label in fold.supports and scan is not fold.supports[label]
        ]
    jobs = []
    for support, label in pairs:
        in_support = find_organ_slices(support.support_labels, label)
        if len(in_support) < n_part:
            continue
        is_main = fold.supports[label] is support
        support_slices = choose_support_slices(in_support, n_part)
        for query in fold.queries:
            if query is support:
                continue
            plans = {}
            in_query = find_organ_slices(query.label_map, label)
            if chunks and len(in_query):
                plans["chunks"] = assign_chunks(in_query, n_part)
            if all_slices and is_main:
                plans["all_slices"] = assign_by_height(len(query.images), support_slices, len(support.images))
            for protocol, plan in plans.items():
                jobs.append(Job(protocol, support, query, label, support_slices, plan, is_main))
    _check_plan(fold, organs, jobs)
    return jobs


def check_fold(
    layout: DatasetLayout, split: Split, organs: Mapping[int, str], *, n_part: int, **options: Any
) -> None:
    """Check, from label maps alone, that a fold can be evaluated.

    Args:
        layout, split, organs, n_part, options: see `load_fold`; a split without held-out scans passes.

    Raises:
        UserError: a label file is missing or damaged; otherwise as `load_fold` and `plan_jobs` do.
    """
    if not split.held_out:
        return
    if layout.spec.is_synthetic:  # has all organs, and may not exist yet
        check_support(split, support_scans=options["support_scans"], supp_idx=options["supp_idx"])
        return
    fold = load_fold(layout, split, organs, n_part=n_part, with_images=False, **options)
    plan_jobs(fold, organs, n_part=n_part, all_slices=False)


def check_support(split: Split, *, support_scans: str, supp_idx: int) -> None:
    """Check, from ids alone, that a fold has a support and a query besides.

    Raises:
        UserError: it lacks one.
    """
    n_candidates = len(list_candidates(split, support_scans))
    choose_support_position(supp_idx, n_candidates, support_scans=support_scans)
    if support_scans == "fold" and len(split.held_out) == 1:
        raise UserError(
            f"support_scans=fold: the fold holds scan {split.held_out[0]} alone, which cannot be support and "
            "query at once; set support_scans=outside, or folds=overlapping"
        )


def describe_missing_organs(fold: EvaluationFold, organs: Mapping[int, str]) -> list[str]:
    """List the queries that lack an organ, which its means leave out."""
    lines = []
    for label, support in fold.supports.items():
        queries = [scan for scan in fold.queries if scan is not support]
        lacking = [scan.scan_id for scan in queries if not (scan.label_map == label).any()]
        if lacking:
            noun = "query" if len(lacking) == 1 else "queries"
            lines.append(f"{organs[label]}: left out {len(lacking)} {noun} without it: scans {lacking}")
    return lines


def _check_plan(fold: EvaluationFold, organs: Mapping[int, str], jobs: Sequence[Job]) -> None:
    if any(job.main_support and (job.query.label_map == job.label).any() for job in jobs):
        return
    main = list(fold.supports.values())
    queries = ", ".join(_name(scan) for scan in fold.queries if not (len(main) == 1 and scan is main[0]))
    raise UserError(
        f"{queries}: at least one must hold an organ of test_label ({', '.join(organs.values())}); "
        "choose another fold or other organs"
    )


def _count_organ_slices(scan: EvaluationScan, label: int) -> int:
    return len(find_organ_slices(scan.support_labels, label))


def _name(scan: EvaluationScan) -> str:
    return f"scan {scan.scan_id}" if scan.label_path is None else str(scan.label_path)
