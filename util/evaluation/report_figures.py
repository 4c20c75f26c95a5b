"""Draw the figures of a report: Dice of each scan, and training curves."""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from util.evaluation.metrics import METRICS, VolumeScore
from util.evaluation.statistics import estimate, tabulate_scans
from util.io.figures import plain_matplotlib
from util.io.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The Okabe-Ito palette, which is safe for colour-blind readers: blue, vermilion, green, orange, purple.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7")
_STYLES = ("-", "--", ":", "-.", (0, (5, 1)))
_INK = "#010203"  # nearly black; pages replace it
_OTHER_CURVES = ("validation_dice", "prior_dice_foreground", "lr")  # beside all losses
_N_COLUMNS, _MAX_PANELS = 3, 6
_PANEL_INCHES = (2.7, 2.1)
_JITTER = 0.22
_DPI = 200

# Metric -> its "steps" and "values".
History = Mapping[str, Mapping[str, Sequence]]


@plain_matplotlib()
def draw_distribution(scores: Sequence[VolumeScore]) -> "Figure":
    """Draw Dice per organ: each scan a point, and the mean with its interval.

    Args:
        scores: of one method, protocol and support choice, at least one of a query with its organ.
    """
    from matplotlib.figure import Figure  # late: its import takes a second

    table, estimates = tabulate_scans(scores, "dice"), estimate(scores, "dice")
    width = 1.5 + 1.15 * len(table.organs)
    figure = Figure((width, 3.0))
    axes = figure.add_axes((0.6 / width, 0.11, 1 - 0.7 / width, 0.86))
    for position, organ in enumerate(table.organs.values()):
        values = table.values[:, position]
        present = np.flatnonzero(np.isfinite(values))
        spread = _JITTER * np.linspace(-1, 1, len(present)) if len(present) > 1 else np.zeros(1)
        axes.scatter(position + spread, values[present], s=22, color=_COLOURS[0], alpha=0.75, linewidths=0)
        result = estimates[organ]
        if result.low is not None:
            axes.vlines(position + 0.34, result.low, result.high, color=_INK, linewidth=1.6)
        axes.plot(position + 0.34, result.mean, marker="D", markersize=4.5, color=_INK)
        lowest = present[values[present].argmin()]
        label, at = f"scan {table.scan_ids[lowest]}", position + spread[list(present).index(lowest)]
        axes.annotate(
            label,
            (at, values[lowest]),
            xytext=(0, -9),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=_INK,
        )
    axes.set_xticks(range(len(table.organs)), table.organs.values())
    axes.set_xlim(-0.5, len(table.organs) - 0.4)
    axes.set_ylabel(METRICS["dice"].label)
    axes.set_ylim(-0.08, 1.02)
    _style(axes)
    return figure


@plain_matplotlib()
def draw_training_curves(histories: Mapping[str, History]) -> "Figure | None":
    """Draw losses, Dice and learning rate of trainings; None without any.

    Args:
        histories: name of each training -> its metrics.
    """
    from matplotlib.figure import Figure  # late: its import takes a second

    names = dict.fromkeys(name for history in histories.values() for name in history)
    losses = [name for name in names if name.endswith("loss")]
    plotted = [*losses, *(name for name in _OTHER_CURVES if name in names)][:_MAX_PANELS]
    if not plotted:
        return None
    n_columns, n_rows = min(_N_COLUMNS, len(plotted)), -(-len(plotted) // _N_COLUMNS)
    width, height = n_columns * _PANEL_INCHES[0], n_rows * _PANEL_INCHES[1] + 0.3
    figure = Figure((width, height))
    # Fixed margins: an automatic layout takes longer than the drawing.
    margins = {
        "left": 0.5 / width,
        "right": 1 - 0.1 / width,
        "bottom": 0.75 / height,
        "top": 1 - 0.3 / height,
    }
    figure.subplots_adjust(**margins, wspace=0.28, hspace=0.6)
    for position, name in enumerate(plotted, start=1):
        axes = figure.add_subplot(n_rows, n_columns, position)
        for n, (label, history) in enumerate(histories.items()):
            if name in history:
                style = {"color": _COLOURS[n % len(_COLOURS)], "linestyle": _STYLES[n % len(_STYLES)]}
                marker = "o" if len(history[name]["steps"]) < 10 else None
                axes.plot(*history[name].values(), label=label, marker=marker, markersize=3, **style)
        axes.set_title(name.replace("_", " "), fontsize=9, color=_INK)
        axes.set_xlabel("training step", fontsize=8)
        axes.set_ylim(bottom=0)
        _style(axes)
    if len(histories) > 1:
        handles = [line for axes in figure.axes for line in axes.get_lines()]
        unique = {line.get_label(): line for line in handles}
        figure.legend(unique.values(), unique, loc="lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def read_history(path: Path) -> dict[str, dict[str, list]]:
    """Read the metrics of a training run; empty if they are missing or unusable."""
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        history = {
            name: {"steps": list(map(int, entry["steps"])), "values": list(map(_number, entry["values"]))}
            for name, entry in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: entry
        for name, entry in history.items()
        if entry["steps"] and len(entry["steps"]) == len(entry["values"])
    }


@plain_matplotlib()
def save_figure(figure: "Figure", folder: Path, name: str) -> None:
    """Write a figure for papers, as PDF and PNG; raises as `atomic_write`."""
    # Dates would make equal figures differ.
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {})):
        with atomic_write(folder / f"{name}{suffix}", suffix=suffix) as temporary:
            figure.savefig(temporary, dpi=_DPI, metadata=metadata)


@plain_matplotlib()
def figure_svg(figure: "Figure", prefix: str) -> str:
    """Return a figure as an SVG element in the colours of a page.

    Args:
        figure: of this module.
        prefix: makes its ids unique within the page.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace(_COLOURS[0], "var(--accent)")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", svg)
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1
    )


def _style(axes: Any) -> None:
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels()):
        label.set_color(_INK)
        label.set_parse_math(False)  # names of organs are no formulae
    for name, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(name in ("left", "bottom"))


def _number(value: Any) -> float:
    """Return a metric's value; NaN if sacred kept something else for a value that is not a number."""
    return float(value) if isinstance(value, int | float) else math.nan
