"""Turn volume scores into tables: printed, CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import UserError
from util.evaluation.metrics import VolumeScore
from util.io.files import write_text

TRAINED = "trained"


def write_scores(folder: Path, scores: Sequence[VolumeScore], summary: dict[str, Any]) -> None:
    """Write `scores.csv`, and `scores.json` with a summary.

    The CSV file has a line per volume, organ, method and protocol.
    """
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
    """Read the scores of a `scores.json`; raises `UserError` when it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [VolumeScore(**score) for score in content["scores"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); evaluate the fold again") from error


def select(scores: Iterable[VolumeScore], **wanted: Any) -> list[VolumeScore]:
    """Keep the scores whose attributes have the wanted values."""
    return [s for s in scores if all(getattr(s, name) == value for name, value in wanted.items())]


def organ_means(scores: Sequence[VolumeScore], measure: str = "dice") -> dict[str, float]:
    """Average a measure over each organ's query volumes, folds weighing alike.

    Organs come in order of label.
    """
    organs = {score.label: score.organ for score in sorted(scores, key=lambda score: score.label)}
    means = {}
    for label, organ in organs.items():
        of_organ = select(scores, label=label)
        folds = sorted({score.fold for score in of_organ})
        of_folds = [np.mean([getattr(s, measure) for s in select(of_organ, fold=fold)]) for fold in folds]
        means[organ] = float(np.mean(of_folds))
    return means


def overall_mean(scores: Sequence[VolumeScore], measure: str = "dice") -> float:
    """Average over volumes, then organs, then folds; NaN without scores."""
    folds = sorted({score.fold for score in scores})
    of_folds = [np.mean(list(organ_means(select(scores, fold=fold), measure).values())) for fold in folds]
    return float(np.mean(of_folds)) if of_folds else float("nan")


def describe_scores(scores: Sequence[VolumeScore]) -> str:
    """Return the tables of one or several folds as text."""
    lines = []
    main_scores = select(scores, main_support=True)
    trained = select(main_scores, method=TRAINED)
    for protocol, meaning in (("chunks", "slices that hold the organ"), ("all_slices", "all slices")):
        chosen = select(trained, protocol=protocol)
        if chosen:
            lines.append(f"\nDice / IoU per query volume, {protocol} ({meaning}):\n{volume_table(chosen)}")
    lines.append(f"\nmean Dice by method:\n{method_table(main_scores)}")
    supports = select(scores, method=TRAINED, protocol="chunks")
    if any(not score.main_support for score in supports):
        lines.append(f"\nevery scan as support, mean Dice: {support_spread(supports)}")
    return "\n".join([*lines, ""])


def summarise_scores(scores: Sequence[VolumeScore]) -> dict[str, Any]:
    """Return the main support's means per method and protocol, overall and per organ."""
    means: dict[str, Any] = {}
    for score in select(scores, main_support=True):
        of_method = means.setdefault(score.method, {})
        if score.protocol not in of_method:
            chosen = select(scores, main_support=True, method=score.method, protocol=score.protocol)
            of_method[score.protocol] = {
                measure: {"mean": overall_mean(chosen, measure), "organs": organ_means(chosen, measure)}
                for measure in ("dice", "iou")
            }
    return {"means": means}


def volume_table(scores: Sequence[VolumeScore]) -> str:
    """Tabulate Dice and IoU of every query volume and organ, with the means.

    The table is of one method and protocol.
    """
    organs = list(organ_means(scores))
    header = ["fold", "query", *organs, "mean"]
    rows = []
    for fold, query_id in sorted({(score.fold, score.query_id) for score in scores}):
        of_query = select(scores, fold=fold, query_id=query_id)
        cells = [_pair(select(of_query, organ=organ)) for organ in organs]
        rows.append([str(fold), str(query_id), *cells, _pair(of_query)])
    means = [_both(lambda measure, o=organ: organ_means(scores, measure)[o]) for organ in organs]
    rows.append(["", "mean", *means, _both(lambda measure: overall_mean(scores, measure))])
    return format_table(header, rows)


def method_table(scores: Sequence[VolumeScore]) -> str:
    """Tabulate every method's and protocol's mean Dice per organ on the main support."""
    organs = list(organ_means(scores))
    rows = []
    for protocol in _in_order(score.protocol for score in scores):
        for method in _in_order(score.method for score in scores):
            chosen = select(scores, protocol=protocol, method=method)
            if chosen:
                means = organ_means(chosen)
                cells = [f"{means[organ]:.3f}" if organ in means else "-" for organ in organs]
                rows.append([protocol, method, *cells, f"{overall_mean(chosen):.3f}"])
    return format_table(["slices", "Dice of", *organs, "mean"], rows)


def support_spread(scores: Sequence[VolumeScore]) -> str:
    """Say how the mean Dice varies with the scan that is the support."""
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
    """Lay out a plain-text table with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _pair(scores: Sequence[VolumeScore]) -> str:
    if not scores:
        return "absent"
    return _both(lambda measure: float(np.mean([getattr(score, measure) for score in scores])))


def _both(value_of: Callable[[str], float]) -> str:
    return f"{value_of('dice'):.3f} / {value_of('iou'):.3f}"


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
