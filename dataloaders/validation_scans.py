"""Hold training scans back for validation, and score it.

They are never scans of the held-out fold, and no episode is made of them. Their labels choose the best
snapshot and train nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from torch import Tensor

from data.layout import DatasetLayout
from dataloaders.evaluation_folds import EvaluationFold, plan_jobs
from dataloaders.evaluation_sets import (
    EvaluationScan,
    Job,
    find_organ_slices,
    job_tensors,
    load_evaluation_scan,
)
from dataloaders.sharding import jobs_of_rank
from dataloaders.splits import Split
from util.errors import UserError
from util.evaluation.metrics import dice_and_iou
from util.evaluation.postprocess import THRESHOLD
from util.parallel.collectives import gather_values
from util.parallel.ranks import Ranks


def hold_back_scans(split: Split, n_scans: int) -> tuple[Split, tuple[int, ...]]:
    """Remove labelled scans from a fold's training scans.

    They are spread evenly over the ids.

    Args:
        split: of the fold.
        n_scans: number of scans to remove: at least two, as one is the support, or 0 for none.

    Returns:
        The split without them, and their ids in increasing order; they depend on the arguments alone.

    Raises:
        UserError: there are too few labelled training scans, or none would be left to train on.
    """
    if not n_scans:
        return split, ()
    labelled = [scan_id for scan_id in split.training if scan_id not in split.unlabelled]
    if n_scans > len(labelled) or n_scans == len(split.training):
        raise UserError(
            f"validation_scans={n_scans}: {len(labelled)} of {len(split.training)} training scans have "
            "labels, and at least one must be left to train on; lower it, or leave validate_every out"
        )
    validation = tuple(labelled[(2 * i + 1) * len(labelled) // (2 * n_scans)] for i in range(n_scans))
    training = tuple(scan_id for scan_id in split.training if scan_id not in validation)
    return replace(split, training=training), validation


def plan_validation(
    layout: DatasetLayout,
    scan_ids: Sequence[int],
    organs: Mapping[int, str],
    *,
    n_part: int,
    image_size_px: tuple[int, int] | None,
    with_image: bool = True,
) -> list[Job]:
    """Plan the validation of a fold's training.

    Every scan that shows an organ is a query, but for the organ's support: the first scan that shows it in
    `n_part` slices. The published protocol assigns its slices. An organ without support or query is left out.

    Args:
        layout: paths of the files.
        scan_ids: the scans that were held back; if empty, there are no jobs.
        organs: label -> name.
        n_part: chunks of a query.
        image_size_px, with_image: see `load_scan`.

    Raises:
        UserError: a file is missing or damaged, or no organ is left.
    """
    scans = [
        load_evaluation_scan(layout, scan_id, image_size_px=image_size_px, with_image=with_image)
        for scan_id in scan_ids
    ]
    jobs = [job for organ in organs.items() for job in _plan_organ(scans, *organ, n_part=n_part)]
    if scans and not jobs:
        names = ", ".join(organs.values())
        raise UserError(
            f"validation_scans={len(scans)}: scans {', '.join(map(str, scan_ids))} must show an organ of "
            f"test_label ({names}), one of them in {n_part} slices; raise validation_scans"
        )
    return jobs


def _plan_organ(scans: Sequence[EvaluationScan], label: int, organ: str, *, n_part: int) -> list[Job]:
    support = next((s for s in scans if len(find_organ_slices(s.support_labels, label)) >= n_part), None)
    queries = [s for s in scans if s is not support and len(find_organ_slices(s.label_map, label))]
    if support is None or not queries:
        return []
    return plan_jobs(
        EvaluationFold(queries, {label: support}), {label: organ}, n_part=n_part, all_slices=False
    )


def validation_dice(
    jobs: Sequence[Job], segment: Callable[[list[dict[str, Any]]], Sequence[Tensor]], *, ranks: Ranks
) -> float:
    """Segment jobs and return their mean Dice.

    It is the mean over organs of the mean over each organ's queries. The ranks share the jobs; all must call
    it.

    Args:
        jobs: at least one.
        segment: takes the `job_tensors` of a rank's jobs, and returns for each the organ's probability in its
            slices, `(n, H, W)`.
        ranks: this process's rank.
    """
    rank_jobs = jobs_of_rank(jobs, rank=ranks.rank, n_ranks=ranks.n_ranks)
    scores = []
    for job, probabilities in zip(rank_jobs, segment([job_tensors(job) for job in rank_jobs]), strict=True):
        truth = job.query.label_map[job.assignment.slices] == job.label
        scores.append((job.label, dice_and_iou(probabilities.numpy() > THRESHOLD, truth)[0]))
    dice_of_organs: dict[int, list[float]] = {}
    for label, dice in (score for rank_scores in gather_values(scores) for score in rank_scores):
        dice_of_organs.setdefault(label, []).append(dice)
    return fmean(fmean(values) for values in dice_of_organs.values())
