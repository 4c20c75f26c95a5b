"""Format tables for papers in Markdown and LaTeX.

The best value is bold, the second underlined, and intervals are small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from util.evaluation.metrics import METRICS, VolumeScore, metric_label
from util.evaluation.report import NOT_SCORED, final_method, select
from util.evaluation.statistics import Estimate, estimate
from util.io.files import write_text

_LATEX_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
# The default font encoding has other characters at the places of these.
_LATEX_SPECIAL |= {"|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}"}
_LATEX_SPECIAL |= {character: f"\\{character}" for character in "&%$#_{}"}
_MAX_LATEX_COLUMNS, _MAX_LATEX_LABEL, _MAX_LATEX_HEADERS = 6, 20, 40  # columns; characters


@dataclass(frozen=True)
class EstimateTable:
    """Estimates to print, and how.

    Attributes:
        caption: title, plain text.
        columns: headers of the columns of estimates.
        rows: label -> estimate of each column, None if it was not scored.
        metrics: name in `METRICS` of each column.
        is_ranked: whether the rows compete, so that the best and second of each column are marked.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Estimate | None, ...]]
    metrics: tuple[str, ...]
    is_ranked: bool


def write_tables(folder: Path, scores: Sequence[VolumeScore]) -> None:
    """Write `table.md` and `table.tex` of an evaluation's main support.

    Per protocol they hold the Dice of all methods, and all metrics of the best one.
    """
    scores = select(scores, main_support=True)
    tables = []
    for protocol in dict.fromkeys(score.protocol for score in scores):
        protocol_scores = select(scores, protocol=protocol)
        methods = dict.fromkeys(score.method for score in protocol_scores)
        named = {method: select(protocol_scores, method=method) for method in methods}
        tables.append(tabulate_metric(named, "dice", protocol))
        tables.append(tabulate_organs(named.get(final_method(methods), []), protocol))
    write_estimate_tables(folder, "table", [table for table in tables if table.rows])


def write_estimate_tables(folder: Path, name: str, tables: Sequence[EstimateTable]) -> None:
    """Write tables to `<name>.md` and `<name>.tex`."""
    write_text(folder / f"{name}.md", "\n".join(map(format_markdown, tables)))
    text = "\n".join(map(format_latex, tables))
    write_text(folder / f"{name}.tex", f"% needs \\usepackage{{booktabs}}\n{text}")


def tabulate_metric(
    named_scores: Mapping[str, Sequence[VolumeScore]], metric: str, protocol: str
) -> EstimateTable:
    """Tabulate one metric by method or run (rows) and organ (columns)."""
    estimates_of = {name: estimate(scores, metric) for name, scores in named_scores.items()}
    every_score = [score for scores in named_scores.values() for score in scores]
    organs = dict(sorted({score.label: score.organ for score in every_score if score.has_organ}.items()))
    columns = (*organs.values(), "mean") if organs else ()
    rows = {name: tuple(map(estimates.get, columns)) for name, estimates in estimates_of.items() if estimates}
    label = metric_label(metric, every_score)
    caption = f"{label}, {protocol}; mean over {_count_scans(rows)} with 95 % bootstrap interval"
    return EstimateTable(caption, columns, rows, (metric,) * len(columns), is_ranked=len(rows) > 1)


def tabulate_organs(scores: Sequence[VolumeScore], protocol: str) -> EstimateTable:
    """Tabulate all metrics of one method: a row per organ and their mean."""
    if not any(score.has_organ for score in scores):
        return EstimateTable("", (), {}, (), is_ranked=False)
    metric_estimates = {metric: estimate(scores, metric) for metric in METRICS}
    rows = {
        organ: tuple(metric_estimates[metric][organ] for metric in METRICS)
        for organ in metric_estimates["dice"]
    }
    columns = tuple(metric_label(metric, scores) for metric in METRICS)
    caption = f"{scores[0].method}, {protocol}; mean over {_count_scans(rows)} with 95 % bootstrap interval"
    return EstimateTable(caption, columns, rows, tuple(METRICS), is_ranked=False)


def format_markdown(table: EstimateTable) -> str:
    """Format a table as Markdown."""
    lines = [f"**{table.caption}**", "", f"| | {' | '.join(table.columns)} |"]
    lines.append("|---" * (len(table.columns) + 1) + "|")
    for label, cells in _format_cells(table, "**{}**", "<u>{}</u>", "<sub>[{}, {}]</sub>"):
        lines.append(f"| {label} | {' | '.join(' '.join(filter(None, cell)) for cell in cells)} |")
    return "\n".join([*lines, ""])


def format_latex(table: EstimateTable) -> str:
    """Format a table as LaTeX for the package booktabs.

    Intervals stand below their values, a long label gets a separate line, and a table of many columns is
    transposed, with long names in its caption, so that tables fit the text of a page.
    """
    rows = _format_cells(table, r"\textbf{{{}}}", r"\underline{{{}}}", r"{{\scriptsize[{}, {}]}}")
    columns, caption = list(table.columns), table.caption
    if len(columns) > _MAX_LATEX_COLUMNS:
        labels, cells = zip(*rows, strict=True)
        rows, columns = list(zip(columns, zip(*cells, strict=True), strict=True)), list(labels)
        if sum(map(len, columns)) > _MAX_LATEX_HEADERS:
            letters = [chr(ord("A") + n) for n in range(len(columns))]
            caption += "".join(f"; {letter}: {name}" for letter, name in zip(letters, columns, strict=True))
            columns = letters
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(caption)}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{2pt}",
        rf"\begin{{tabular}}{{@{{}}l{'c' * len(columns)}@{{}}}}",
        r"\toprule",
        _join_cells(["", *map(escape_latex, columns)]),
    ]
    for n, (label, cells) in enumerate(rows):
        lines.append(r"\addlinespace" if n else r"\midrule")
        values, intervals = zip(*cells, strict=True)
        if len(label) > _MAX_LATEX_LABEL:
            lines.append(rf"\multicolumn{{{len(columns) + 1}}}{{@{{}}l@{{}}}}{{{escape_latex(label)}}} \\*")
            label = ""
        lines.append(_join_cells([escape_latex(label), *values]))
        lines += [_join_cells(["", *intervals])] if any(intervals) else []
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escape_latex(text: str) -> str:
    """Escape the characters that LaTeX reads as commands."""
    return "".join(_LATEX_SPECIAL.get(character, character) for character in text)


def _join_cells(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _format_cells(
    table: EstimateTable, best: str, second: str, interval: str
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Format value and interval of each row's cells; equal values, as they are shown, share a rank.

    The interval may be empty.
    """
    columns = []
    for n, metric in enumerate(table.metrics):
        estimates = [row[n] for row in table.rows.values()]
        digits = METRICS[metric].n_decimals
        values = [None if cell is None else round(cell.mean, digits) for cell in estimates]
        ranked = sorted({value for value in values if value is not None})
        ranked = ranked[::-1] if METRICS[metric].higher_is_better else ranked
        marks = dict(zip(ranked, (best, second), strict=False)) if table.is_ranked else {}
        columns.append(
            [
                _format_cell(cell, digits, marks.get(value, "{}"), interval)
                for cell, value in zip(estimates, values, strict=True)
            ]
        )
    return list(zip(table.rows, map(list, zip(*columns, strict=True)), strict=True))


def _format_cell(cell: Estimate | None, digits: int, mark: str, interval: str) -> tuple[str, str]:
    if cell is None:
        return NOT_SCORED, ""
    text = mark.format(f"{cell.mean:.{digits}f}")
    if cell.low is None:
        return text, ""
    return text, interval.format(f"{cell.low:.{digits}f}", f"{cell.high:.{digits}f}")


def _count_scans(rows: Mapping[str, tuple[Estimate | None, ...]]) -> str:
    numbers = [cell.n_scans for row in rows.values() for cell in row if cell is not None]
    if not numbers:
        return "no scans"
    low, high = min(numbers), max(numbers)
    return f"{high} scan{'' if high == 1 else 's'}" if low == high else f"{low} to {high} scans"
