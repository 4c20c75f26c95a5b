"""Plot the metrics of a running training as curves, at a bounded cost."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from util.engine.time_budget import TimeBudget
from util.errors import UserError
from util.io.figures import History, draw_curves, plain_matplotlib
from util.io.files import atomic_write

# Plotting takes at most this share of a training's time, but for the plot at the end.
MAX_TIME_SHARE = 0.01
FIRST_PLOT_S = 1.5  # assumed for the first plot, which also imports matplotlib
_DPI = 90


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
        history: metric -> its steps and values.
        panels: title -> metric -> label; metrics without history are left out, and panels without metrics.
        path: of the PNG.
        title: of the figure.

    Raises:
        UserError: the PNG cannot be written.
        ImportError: matplotlib cannot be used.
    """
    curves = {
        name: {
            label: history[metric] for metric, label in labels.items() if history.get(metric, {}).get("steps")
        }
        for name, labels in panels.items()
    }
    figure = draw_curves({name: panel for name, panel in curves.items() if panel}, title=title)
    with atomic_write(path, suffix=".png") as temporary:
        figure.savefig(temporary, dpi=_DPI)
