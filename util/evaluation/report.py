"""Report volume scores as text tables, CSV and JSON."""

import csv
import io
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import UserError
from util.evaluation.metrics import VolumeScore
from util.io.files import write_text

TRAINED, ADAPTED, REGISTRATION = "trained", "adapted", "registration"


def guided(method: str) -> str:
    """Return the name of a method that registration guides."""
    return f"{method} + {REGISTRATION}"


# A network's methods, from the least to the most that is done for a result.
NETWORK_METHODS = (TRAINED, guided(TRAINED), ADAPTED, guided(ADAPTED))


def write_scores(folder: Path, scores: Sequence[VolumeScore], summary: dict[str, Any]) -> None:
    """Write `scores.csv`, with a line per score, and `scores.json`, with a summary."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=[entry.name for entry in fields(VolumeScore)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    write_text(folder / "scores.csv", text.getvalue())
    content = {"summary": summary, "scores": [asdict(score) for score in scores]}
    write_text(folder / "scores.json", json.dumps(content, indent=1) + "\n")


def read_scores(path: Path) -> list[VolumeScore]:
    """Read the scores of a `scores.json`; raises `UserError` if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [VolumeScore(**score) for score in content["scores"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); evaluate the fold again") from error


def select(scores: Iterable[VolumeScore], **values: Any) -> list[VolumeScore]:
    """Select the scores whose attributes have the given values."""
    return [s for s in scores if all(getattr(s, name) == value for name, value in values.items())]


def organ_means(scores: Sequence[VolumeScore], measure: str = "dice") -> dict[str, float]:
    """Average a measure per organ over volumes, then over folds; ordered by label."""
    organs = {score.label: score.organ for score in sorted(scores, key=lambda score: score.label)}
    means = {}
    for label, organ in organs.items():
        organ_scores = select(scores, label=label)
        folds = sorted({score.fold for score in organ_scores})
        means[organ] = float(np.mean([_mean(select(organ_scores, fold=fold), measure) for fold in folds]))
    return means


def overall_mean(scores: Sequence[VolumeScore], measure: str = "dice") -> float:
    """Average over volumes, then organs, then folds; NaN without scores."""
    folds = sorted({score.fold for score in scores})
    means = [np.mean(list(organ_means(select(scores, fold=fold), measure).values())) for fold in folds]
    return float(np.mean(means)) if means else float("nan")


def describe_scores(scores: Sequence[VolumeScore]) -> str:
    """Format the tables of one or several folds as text."""
    lines = []
    main_scores = select(scores, main_support=True)
    best = final_method({score.method for score in main_scores})
    trained = select(main_scores, method=best)
    for protocol, meaning in (("chunks", "slices that hold the organ"), ("all_slices", "all slices")):
        selected = select(trained, protocol=protocol)
        if selected:
            title = f"Dice / IoU per query volume, {best}, {protocol} ({meaning})"
            lines.append(f"\n{title}:\n{volume_table(selected)}")
    lines.append(f"\nmean Dice by method:\n{method_table(main_scores)}")
    supports = select(scores, method=TRAINED, protocol="chunks")
    if any(not score.main_support for score in supports):
        lines.append(f"\nevery scan as support, mean Dice: {support_spread(supports)}")
    return "\n".join([*lines, ""])


def final_method(methods: Collection[str]) -> str:
    """Choose the method whose scores and predictions stand for an evaluation."""
    return max((method for method in methods if method in NETWORK_METHODS), key=NETWORK_METHODS.index)


def summarise_scores(scores: Sequence[VolumeScore]) -> dict[str, Any]:
    """Return the main support's means by method and protocol, overall and per organ."""
    means: dict[str, Any] = {}
    main_scores = select(scores, main_support=True)
    for method, protocol in dict.fromkeys((score.method, score.protocol) for score in main_scores):
        selected = select(main_scores, method=method, protocol=protocol)
        means.setdefault(method, {})[protocol] = {
            measure: {"mean": overall_mean(selected, measure), "organs": organ_means(selected, measure)}
            for measure in ("dice", "iou")
        }
    return {"means": means}


def volume_table(scores: Sequence[VolumeScore]) -> str:
    """Tabulate Dice and IoU per query volume and organ, of one method and protocol."""
    organs = list(organ_means(scores))
    header = ["fold", "query", *organs, "mean"]
    rows = []
    for fold, query_id in sorted({(score.fold, score.query_id) for score in scores}):
        query_scores = select(scores, fold=fold, query_id=query_id)
        cells = [_mean_cell(select(query_scores, organ=organ)) for organ in organs]
        rows.append([str(fold), str(query_id), *cells, _mean_cell(query_scores)])
    dice, iou = (organ_means(scores, measure) for measure in ("dice", "iou"))
    overall = _cell(overall_mean(scores), overall_mean(scores, "iou"))
    rows.append(["", "mean", *(_cell(dice[organ], iou[organ]) for organ in organs), overall])
    return format_table(header, rows)


def method_table(scores: Sequence[VolumeScore]) -> str:
    """Tabulate the mean Dice per organ of each protocol and method."""
    organs = list(organ_means(scores))
    rows = []
    for protocol in dict.fromkeys(score.protocol for score in scores):
        for method in dict.fromkeys(score.method for score in scores):
            selected = select(scores, protocol=protocol, method=method)
            if selected:
                means = organ_means(selected)
                cells = [f"{means[organ]:.3f}" if organ in means else "-" for organ in organs]
                rows.append([protocol, method, *cells, f"{overall_mean(selected):.3f}"])
    return format_table(["slices", "Dice of", *organs, "mean"], rows)


def support_spread(scores: Sequence[VolumeScore]) -> str:
    """Describe how the mean Dice varies with the support scan."""
    by_support = {
        (score.fold, score.support_id): overall_mean(
            select(scores, fold=score.fold, support_id=score.support_id)
        )
        for score in scores
    }
    values = np.array(list(by_support.values()))
    spread = f"mean {values.mean():.3f}, standard deviation {values.std():.3f} over {len(values)} supports"
    rows = [[str(fold), str(scan), f"{value:.3f}"] for (fold, scan), value in by_support.items()]
    return f"{spread}\n{format_table(['fold', 'support', 'mean Dice'], rows)}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a plain-text table with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _mean(scores: Sequence[VolumeScore], measure: str) -> float:
    return float(np.mean([getattr(score, measure) for score in scores]))


def _mean_cell(scores: Sequence[VolumeScore]) -> str:
    return _cell(_mean(scores, "dice"), _mean(scores, "iou")) if scores else "absent"


def _cell(dice: float, iou: float) -> str:
    return f"{dice:.3f} / {iou:.3f}"
