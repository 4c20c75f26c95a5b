"""Prepare tables, cases and charts for a report's page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from util.evaluation.metrics import METRICS, VolumeScore
from util.evaluation.paper_tables import EstimateTable
from util.evaluation.report import format_estimate, select
from util.evaluation.report_cases import Case, choose_cases

_CHART_WIDTH, _CHART_HEIGHT = 320, 100


@dataclass(frozen=True)
class CountedTable:
    """A table of estimates with columns of counts.

    Attributes:
        table: the estimates.
        counts: label of a row -> its further cells.
        count_columns: their headers.
    """

    table: EstimateTable
    counts: Mapping[str, tuple[str, ...]]
    count_columns: tuple[str, ...] = ()


def add_counts(table: EstimateTable, scores: Sequence[VolumeScore]) -> CountedTable:
    """Add missed and false organs, the number of scans and the spread over folds.

    The spread, a standard deviation, is left out if there is one fold only.
    """
    counts = {}
    has_folds = any(cells[0].fold_sd is not None for cells in table.rows.values())
    for organ, cells in table.rows.items():
        organ_scores = scores if organ == "mean" else select(scores, organ=organ)
        fold_sd = cells[0].fold_sd
        counts[organ] = (
            *(["-" if fold_sd is None else f"{fold_sd:.3f}"] if has_folds else []),
            str(sum(score.is_missed for score in organ_scores)),
            str(sum(score.is_false for score in organ_scores)),
            str(cells[0].n_scans),
        )
    columns = (*(["Dice, SD of folds"] if has_folds else []), "missed", "false", "scans")
    return CountedTable(table, counts, columns)


def show_table(table: EstimateTable | CountedTable, corner: str) -> dict[str, Any]:
    """Format a table's cells as pairs of value and interval, which may be empty.

    `corner` is the header of the column of labels.
    """
    counted = table if isinstance(table, CountedTable) else CountedTable(table, {})
    estimates = counted.table
    rows = []
    for label, cells in estimates.rows.items():
        texts = [
            ("-", "") if cell is None else tuple(format_estimate(cell, metric).partition(" ")[::2])
            for cell, metric in zip(cells, estimates.metrics, strict=True)
        ]
        rows.append((label, [*texts, *((text, "") for text in counted.counts.get(label, ()))]))
    columns = (*estimates.columns, *counted.count_columns)
    return {"caption": estimates.caption, "corner": corner, "columns": columns, "rows": rows}


def show_cases(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Choose the worst, median and best of an organ's cases, and prepare them."""
    return [
        {"title": title, "case": case, "chart": make_chart(case), "metrics": list_metrics(case.score)}
        for title, case in choose_cases(cases)
    ]


def list_metrics(score: VolumeScore) -> list[tuple[str, str]]:
    """List label and value of a score's metrics; errors of volume keep their sign."""
    lines = []
    for name, metric in METRICS.items():
        label = metric.label.format(tolerance=score.nsd_tolerance_mm).replace("|", "")
        value = getattr(score, name)
        lines += [] if value is None else [(label, f"{value:.{metric.n_decimals}f}")]
    return lines


def make_chart(case: Case) -> dict[str, Any]:
    """Place Dice by slice on a chart, with a band for each support slice."""
    first, last = case.slices[0].slice_idx, case.slices[-1].slice_idx
    step = _CHART_WIDTH / (last - first + 1)
    bands = []
    for support_slice, entries in groupby(case.slices, key=lambda entry: entry.support_slice_idx):
        slices = [entry.slice_idx for entry in entries]
        span = {"x": (slices[0] - first) * step, "width": (slices[-1] - slices[0] + 1) * step}
        bands.append({"support": support_slice, **span})
    points = [
        {
            "x": (entry.slice_idx - first + 0.5) * step,
            "y": _CHART_HEIGHT * (1 - entry.dice),
            "slice": entry.slice_idx,
            "dice": entry.dice,
        }
        for entry in case.slices
        if entry.dice is not None
    ]
    text = "no slice shows the organ"
    if points:
        worst, best = (choose(points, key=lambda point: point["dice"]) for choose in (min, max))
        text = (
            f"{len(points)} slices with organ or prediction; lowest {worst['dice']:.2f} in slice "
            f"{worst['slice']}, highest {best['dice']:.2f} in slice {best['slice']}"
        )
    size = {"width": _CHART_WIDTH, "height": _CHART_HEIGHT, "first": first, "last": last}
    return {**size, "bands": bands, "points": points, "text": f"Dice by slice: {text}"}
