"""Plot the metrics of a running training as curves, at a bounded cost."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from util.engine.time_budget import TimeBudget
from util.errors import UserError
from util.io.figures import plain_matplotlib
from util.io.files import atomic_write

# Plotting takes at most this share of a training's time, but for the plot at the end.
MAX_TIME_SHARE = 0.01
FIRST_PLOT_S = 1.5  # assumed for the first plot, which also imports matplotlib
# Black, blue, vermilion and green of the Okabe-Ito palette, which is safe for colour-blind readers.
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73")
_STYLES = ("-", "-", "--", ":")
_N_COLUMNS, _PANEL_INCHES, _DPI = 3, (3.6, 2.5), 90

# Metric -> its steps and values, as `MetricHistory.metrics` holds them.
History = Mapping[str, Mapping[str, Sequence]]


class TrainingCurves:
    """Keep a PNG of the curves of a training up to date.

    If a plot fails, a warning is printed and the training continues.

    Args:
        path: of the PNG.
        panels: see `plot_curves`.
        title: of the figure.
        clock: returns seconds.
    """

    def __init__(
        self,
        path: Path,
        panels: Mapping[str, Mapping[str, str]],
        *,
        title: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._panels, self._title = path, panels, title
        self._is_usable = True
        self._budget = TimeBudget(MAX_TIME_SHARE, first_s=FIRST_PLOT_S, clock=clock)

    def refresh(self, history: History, *, is_last: bool, warn: Callable[[str], object]) -> None:
        """Plot the history if enough time has passed, or at the end.

        Args:
            history: metric -> its steps and values.
            is_last: whether the training is finished.
            warn: prints a line.
        """
        if not self._is_usable or not (is_last or self._budget.is_due()):
            return
        try:
            with self._budget.charge():
                plot_curves(history, self._panels, self._path, title=self._title)
        except (UserError, ImportError) as error:
            self._is_usable = False
            warn(f"warning: {self._path.name} is not drawn any more ({error})")


@plain_matplotlib()
def plot_curves(history: History, panels: Mapping[str, Mapping[str, str]], path: Path, *, title: str) -> None:
    """Plot metrics against training steps as PNG, written atomically.

    Args:
        history: metric -> its steps and values; a value that is not a number leaves a gap.
        panels: title -> metric -> label; metrics without history are left out, and panels without metrics.
        path: of the PNG.
        title: of the figure.

    Raises:
        UserError: the PNG cannot be written.
        ImportError: matplotlib cannot be used.
    """
    from matplotlib.figure import Figure  # late: its import takes a second, and no display is needed

    panels = {
        name: {metric: label for metric, label in labels.items() if history.get(metric, {}).get("steps")}
        for name, labels in panels.items()
    }
    panels = {name: labels for name, labels in panels.items() if labels}
    n_rows = max(1, -(-len(panels) // _N_COLUMNS))
    figure = Figure((_N_COLUMNS * _PANEL_INCHES[0], n_rows * _PANEL_INCHES[1] + 0.4), dpi=_DPI)
    for position, (name, labels) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(n_rows, _N_COLUMNS, position)
        for i, (metric, label) in enumerate(labels.items()):
            style = {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _STYLES[i % len(_STYLES)]}
            steps, values = history[metric]["steps"], history[metric]["values"]
            marker = "o" if len(steps) < 10 else None
            axes.plot(steps, values, label=label, linewidth=1.2, marker=marker, markersize=3, **style)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("training step", fontsize=8)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if len(labels) > 1:
            axes.legend(fontsize=7, loc="best" if len(steps) < 1000 else "upper right")
    figure.suptitle(title, fontsize=11)
    figure.subplots_adjust(left=0.05, right=0.98, bottom=0.1, top=0.86, wspace=0.2, hspace=0.55)
    with atomic_write(path, suffix=".png") as temporary:
        figure.savefig(temporary)
