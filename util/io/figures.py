"""Write pictures, and draw with matplotlib independently of the user's settings."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from util.io.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The Okabe-Ito palette, which is safe for colour-blind readers: blue, vermilion, green, orange, purple.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7")
_STYLES = ("-", "--", ":", "-.", (0, (5, 1)))
INK = "#010203"  # nearly black; pages replace it
_N_COLUMNS, _PANEL_INCHES = 3, (3.0, 2.2)

# A metric's "steps" and "values", and those of each metric.
Curve = Mapping[str, Sequence]
History = Mapping[str, Curve]


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """Draw with matplotlib's default settings in the block, without a display.

    A notebook's MPLBACKEND may name a missing backend, on which the import fails; a user's matplotlibrc, such
    as LaTeX for all text, may change the figures or fail.

    Raises:
        ImportError: matplotlib is not installed, or is damaged.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(defaults):
        yield


@plain_matplotlib()
def draw_curves(panels: Mapping[str, Mapping[str, Curve]], *, title: str = "") -> "Figure":
    """Draw curves over training steps, a few of them in each panel.

    Args:
        panels: title -> label -> curve; a value that is not a number leaves a gap. Curves have the same
            colour in all panels if these have the same labels, which one legend then explains.
        title: of the figure.

    Raises:
        ImportError: matplotlib cannot be used.
    """
    from matplotlib.figure import Figure  # late: its import takes a second, and no display is needed

    n_columns, n_rows = max(1, min(_N_COLUMNS, len(panels))), max(1, -(-len(panels) // _N_COLUMNS))
    head = 0.5 if title else 0.3
    width, height = n_columns * _PANEL_INCHES[0], n_rows * _PANEL_INCHES[1] + head
    figure = Figure((width, height))
    # Fixed margins: an automatic layout takes longer than the drawing.
    figure.subplots_adjust(
        left=0.5 / width,
        right=1 - 0.1 / width,
        bottom=0.75 / height,
        top=1 - head / height,
        wspace=0.28,
        hspace=0.6,
    )
    have_same_labels = len({tuple(curves) for curves in panels.values()}) == 1
    for position, (name, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(n_rows, n_columns, position)
        axes.set_prop_cycle(color=COLOURS, linestyle=_STYLES)
        for label, curve in curves.items():
            steps, values = curve["steps"], curve["values"]
            marker = "o" if len(steps) < 10 else None
            axes.plot(steps, values, label=label, linewidth=1.2, marker=marker, markersize=3)
        axes.set_title(name, fontsize=9, color=INK)
        axes.set_xlabel("training step", fontsize=8)
        axes.set_ylim(bottom=0)
        style_axes(axes)
        if len(curves) > 1 and not have_same_labels:
            axes.legend(fontsize=7, loc="upper right", labelcolor=INK)
    if have_same_labels and len(curves) > 1:
        lines = figure.axes[0].get_lines()
        figure.legend(handles=lines, loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11, color=INK)
    return figure


def style_axes(axes: "Axes") -> None:
    """Give axes small labels in `INK`, a grid of horizontal lines, and no frame."""
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels()):
        label.set_color(INK)
        label.set_parse_math(False)  # names of organs are no formulae
    for name, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(name in ("left", "bottom"))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture `(H, W, 3)`, 0 to 1, as PNG; raises as `atomic_write`."""
    rgb = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    encoded = cv2.imencode(".png", rgb[..., ::-1])[1]
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
