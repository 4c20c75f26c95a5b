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
from util.io.figures import COLOURS, INK, History, draw_curves, plain_matplotlib, style_axes
from util.io.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OTHER_CURVES = ("validation_dice", "prior_dice_foreground", "lr")  # beside all losses
_MAX_PANELS = 6
_JITTER = 0.22
_DPI = 200


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
        axes.scatter(position + spread, values[present], s=22, color=COLOURS[0], alpha=0.75, linewidths=0)
        result = estimates[organ]
        if result.low is not None:
            axes.vlines(position + 0.34, result.low, result.high, color=INK, linewidth=1.6)
        axes.plot(position + 0.34, result.mean, marker="D", markersize=4.5, color=INK)
        lowest = present[values[present].argmin()]
        label, at = f"scan {table.scan_ids[lowest]}", position + spread[list(present).index(lowest)]
        axes.annotate(
            label,
            (at, values[lowest]),
            xytext=(0, -9),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )
    axes.set_xticks(range(len(table.organs)), table.organs.values())
    axes.set_xlim(-0.5, len(table.organs) - 0.4)
    axes.set_ylabel(METRICS["dice"].label)
    axes.set_ylim(-0.08, 1.02)
    style_axes(axes)
    return figure


def draw_training_curves(histories: Mapping[str, History]) -> "Figure | None":
    """Draw losses, Dice and learning rate of trainings; None without any.

    Args:
        histories: name of each training -> its metrics.
    """
    names = dict.fromkeys(name for history in histories.values() for name in history)
    losses = [name for name in names if name.endswith("loss")]
    plotted = [*losses, *(name for name in _OTHER_CURVES if name in names)][:_MAX_PANELS]
    missing = {"steps": (), "values": ()}
    panels = {
        name.replace("_", " "): {label: history.get(name, missing) for label, history in histories.items()}
        for name in plotted
    }
    return draw_curves(panels) if panels else None


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
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(COLOURS[0], "var(--accent)")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", svg)
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1
    )


def _number(value: Any) -> float:
    """Return a metric's value; NaN if sacred kept something else for a value that is not a number."""
    return float(value) if isinstance(value, int | float) else math.nan
