"""Segment each support from the others, to measure how much each of them helps."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data.prediction_results import SupportScore
from dataloaders.framed_scans import FramedSupport
from script.workflows.support_ensemble import SupportEnsemble, SupportResult
from util.evaluation.metrics import dice_and_iou
from util.evaluation.postprocess import THRESHOLD
from util.progress import progress_bar


def compare_supports(
    supports: Sequence[FramedSupport],
    make_ensemble: Callable[[Sequence[FramedSupport]], SupportEnsemble],
    *,
    progress: bool,
) -> list[SupportScore]:
    """Segment every support from each other one, from all others, and all but one.

    Args:
        supports: at least two.
        make_ensemble: returns what segments from some of them.
        progress: show a progress bar.

    Returns:
        A score for each label, support that holds it, and other support that holds it.
    """
    scores = []
    with progress_bar(supports, desc="comparing supports", unit="support", disable=not progress) as bar:
        for number, target in enumerate(bar):
            others = [support for other, support in enumerate(supports) if other != number]
            scores += _score(target, make_ensemble(others))
    return scores


def _score(target: FramedSupport, ensemble: SupportEnsemble) -> Iterator[SupportScore]:
    query = target.scan
    slices = np.arange(len(query.images))
    results = ensemble.segment_by_support(query, slices, ensemble.warp(query))
    for position, (label, sources) in enumerate(results, start=1):
        if position not in target.support_slices:
            continue
        truth = target.label_map == position

        def dice(selected: Sequence[SupportResult], truth: np.ndarray = truth) -> float | None:
            joint = ensemble.combine(selected, query, slices)
            return None if joint is None else float(dice_and_iou(joint > THRESHOLD, truth)[0])

        together = dice(sources)
        for source in sources:
            rest = [other for other in sources if other is not source]
            without = dice(rest) if rest else None
            yield SupportScore(label, query.name, source.support, dice([source]), together, without)
