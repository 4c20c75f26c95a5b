"""Average volume scores, and report them as text tables."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from util.evaluation.method_names import (
    NETWORK_METHODS,
    REGISTRATION,
    SLICE_MEANINGS,
    TRAINED,
    refined,
)
from util.evaluation.metrics import METRICS, VolumeScore, metric_label, metric_value
from util.evaluation.statistics import Estimate, estimate

_FINAL_METHODS = (REGISTRATION, refined(REGISTRATION), *NETWORK_METHODS)
NOT_SCORED = "-"


def select(scores: Iterable[VolumeScore], **values: Any) -> list[VolumeScore]:
    """Select the scores whose attributes have the given values."""
    return [s for s in scores if all(getattr(s, name) == value for name, value in values.items())]


def organ_means(scores: Sequence[VolumeScore], measure: str = "dice") -> dict[str, float]:
    """Average a measure per organ over volumes, then over folds; ordered by label.

    Queries without the organ are left out.
    """
    scores = [score for score in scores if score.has_organ]
    organs = {score.label: score.organ for score in sorted(scores, key=lambda score: score.label)}
    means = {}
    for label, organ in organs.items():
        organ_scores = select(scores, label=label)
        folds = sorted({score.fold for score in organ_scores})
        means[organ] = float(np.mean([_mean(select(organ_scores, fold=fold), measure) for fold in folds]))
    return means


def overall_mean(scores: Sequence[VolumeScore], measure: str = "dice") -> float:
    """Average over volumes, then organs, then folds; NaN without scores."""
    folds = sorted({score.fold for score in scores if score.has_organ})
    means = [np.mean(list(organ_means(select(scores, fold=fold), measure).values())) for fold in folds]
    return float(np.mean(means)) if means else float("nan")


def describe_scores(scores: Sequence[VolumeScore]) -> str:
    """Format the tables of one or several folds as text.

    A network that hits no voxel of any organ is reported first, and without tables of zeros.
    """
    main_scores = select(scores, main_support=True)
    method = final_method({score.method for score in main_scores})
    trained = select(main_scores, method=method)
    dead = describe_dead_network(scores)
    lines = [] if dead is None else [dead]
    for protocol, meaning in SLICE_MEANINGS.items():
        selected = select(trained, protocol=protocol)
        if selected and dead is None:
            title = f"Dice / IoU per query volume, {method}, {protocol} ({meaning})"
            lines.append(f"\n{title}:\n{volume_table(selected)}")
            title = f"Metrics with 95 % intervals over distinct scans, {method}, {protocol}"
            lines.append(f"\n{title}:\n{metric_table(selected)}")
    lines.append(f"\nmean Dice by method:\n{method_table(main_scores)}")
    supports = select(scores, method=TRAINED, protocol="chunks")
    if any(not score.main_support for score in supports):
        lines.append(f"\nevery scan as support, mean Dice: {support_spread(supports)}")
    return "\n".join([*lines, ""])


def final_method(methods: Collection[str]) -> str:
    """Choose the method whose scores and predictions represent an evaluation.

    It is registration if no network was evaluated.
    """
    present = (method for method in methods if method in _FINAL_METHODS)
    return max(present, key=_FINAL_METHODS.index, default=REGISTRATION)


def describe_dead_network(scores: Sequence[VolumeScore]) -> str | None:
    """Warn of a trained network that hits no voxel of any organ; None otherwise."""
    trained = [score for score in select(scores, method=TRAINED) if score.has_organ]
    if not trained or any(score.dice for score in trained):
        return None
    return (
        "warning: Dice is 0 in every query, none of the voxels that the trained network predicts (if "
        "any) hits its organ; was its training long enough?"
    )


def summarise_scores(scores: Sequence[VolumeScore]) -> dict[str, Any]:
    """Return the main support's means and intervals by method and protocol.

    `mean` and `organs` average over volumes, then (organs and) folds, as published tables do; `scans` holds
    the estimates over distinct scans.
    """
    means: dict[str, Any] = {}
    main_scores = select(scores, main_support=True)
    for method, protocol in dict.fromkeys((score.method, score.protocol) for score in main_scores):
        selected = select(main_scores, method=method, protocol=protocol)
        means.setdefault(method, {})[protocol] = {
            **{
                metric: {
                    "mean": overall_mean(selected, metric),
                    "organs": organ_means(selected, metric),
                    "scans": {organ: asdict(result) for organ, result in estimate(selected, metric).items()},
                }
                for metric in METRICS
            },
            "n_missed": sum(score.is_missed for score in selected),
            "n_false": sum(score.is_false for score in selected),
        }
    return {"means": means}


def volume_table(scores: Sequence[VolumeScore]) -> str:
    """Tabulate Dice and IoU per query volume and organ, of one method and protocol.

    An organ is `absent` in a query that does not show it, and `-` in a fold that was not scored for it.
    """
    organs = list(organ_means(scores))
    header = ["fold", "query", *organs, "mean"]
    rows = []
    for fold, query_id in sorted({(score.fold, score.query_id) for score in scores}):
        fold_organs = {score.organ for score in select(scores, fold=fold)}
        present = [score for score in select(scores, fold=fold, query_id=query_id) if score.has_organ]
        cells = [
            _mean_cell(select(present, organ=organ)) if organ in fold_organs else NOT_SCORED
            for organ in organs
        ]
        rows.append([str(fold), str(query_id), *cells, _mean_cell(present)])
    dice, iou = (organ_means(scores, measure) for measure in ("dice", "iou"))
    overall = _cell(overall_mean(scores), overall_mean(scores, "iou"))
    rows.append(["", "mean", *(_cell(dice[organ], iou[organ]) for organ in organs), overall])
    return format_table(header, rows)


def metric_table(scores: Sequence[VolumeScore]) -> str:
    """Tabulate all metrics per organ, of one method and protocol.

    Means are over distinct scans, with an interval for Dice and its spread over folds.
    """
    estimates = {metric: estimate(scores, metric) for metric in METRICS}
    header = [metric_label(metric, scores) for metric in METRICS]
    header[1:1] = ["SD of folds"]
    rows = []
    for organ, dice in estimates["dice"].items():
        organ_scores = scores if organ == "mean" else select(scores, organ=organ)
        cells = [format_estimate(estimates[metric][organ], metric, metric == "dice") for metric in METRICS]
        cells[1:1] = ["-" if dice.fold_sd is None else f"{dice.fold_sd:.3f}"]
        counts = (sum(s.is_missed for s in organ_scores), sum(s.is_false for s in organ_scores), dice.n_scans)
        rows.append([organ, *cells, *map(str, (*counts, dice.n_folds))])
    return format_table(["organ", *header, "missed", "false", "scans", "folds"], rows)


def format_estimate(result: Estimate, metric: str, with_interval: bool = True) -> str:
    """Format a mean, and its interval if there is one."""
    n = METRICS[metric].n_decimals
    interval = (
        f" [{result.low:.{n}f}, {result.high:.{n}f}]" if with_interval and result.low is not None else ""
    )
    return f"{result.mean:.{n}f}{interval}"


def method_table(scores: Sequence[VolumeScore]) -> str:
    """Tabulate the mean Dice per organ of each protocol and method."""
    organs = list(organ_means(scores))
    rows = []
    for protocol in dict.fromkeys(score.protocol for score in scores):
        for method in dict.fromkeys(score.method for score in scores):
            selected = [s for s in select(scores, protocol=protocol, method=method) if s.has_organ]
            if selected:
                means = organ_means(selected)
                cells = [f"{means[organ]:.3f}" if organ in means else NOT_SCORED for organ in organs]
                counts = (len({score.query_id for score in selected}), len({s.fold for s in selected}))
                rows.append([protocol, method, *cells, f"{overall_mean(selected):.3f}", *map(str, counts)])
    return format_table(["slices", "Dice of", *organs, "mean", "scans", "folds"], rows)


def support_spread(scores: Sequence[VolumeScore]) -> str:
    """Describe how the mean Dice varies with the support scan.

    The mean is over the supports that served every organ, so that it does not depend on which organs a
    support lacks.
    """
    scores = [score for score in scores if score.has_organ]
    organs = organ_means(scores)
    by_support: dict[tuple[int, int], list[VolumeScore]] = {}
    for score in scores:
        by_support.setdefault((score.fold, score.support_id), []).append(score)
    rows, values = [], []
    for (fold, scan), group in by_support.items():
        lacking = [organ for organ in organs if not select(group, organ=organ)]
        value = overall_mean(group)
        values += [] if lacking else [value]
        rows.append([str(fold), str(scan), f"{value:.3f}", f"no {', '.join(lacking)}" if lacking else ""])
    table = format_table(["fold", "support", "mean Dice", ""], rows)
    if not values:
        return f"no mean, no support serves all organs\n{table}"
    n_left_out = len(rows) - len(values)
    left_out = f", {n_left_out} that lack an organ left out" if n_left_out else ""
    spread = f"standard deviation {np.std(values):.3f} over {len(values)} supports{left_out}"
    return f"mean {np.mean(values):.3f}, {spread}\n{table}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a plain-text table with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _mean(scores: Sequence[VolumeScore], measure: str) -> float:
    return float(np.mean([metric_value(score, measure) for score in scores]))


def _mean_cell(scores: Sequence[VolumeScore]) -> str:
    return _cell(_mean(scores, "dice"), _mean(scores, "iou")) if scores else "absent"


def _cell(dice: float, iou: float) -> str:
    return f"{dice:.3f} / {iou:.3f}"
