"""Report a training's progress: log, progress bar, history and curves."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from util.engine.checkpoint_manager import VALIDATION_METRIC, find_best_step
from util.engine.training_state import MetricHistory
from util.errors import UserError
from util.io.figures import History, draw_curves, plain_matplotlib
from util.io.files import atomic_write
from util.progress import describe_pace

# Plotting takes at most this share of a training's time, but for the plot at the end.
MAX_TIME_SHARE = 0.01
FIRST_PLOT_S = 1.5  # assumed for the first plot, which also imports matplotlib
_DPI = 90
# Titles of plots of what every training has, with labels.
PLOTS = {
    "learning rate": {"lr": "learning rate"},
    "mean Dice on the validation scans": {VALIDATION_METRIC: "mean Dice"},
}
Averages = Mapping[str, float]


class TrainingReporter:
    """Report one training.

    Args:
        history: receives all reported values.
        n_steps: of the training.
        first_step: steps done before this process began.
        describe: formats averages of the metrics, a short text for the bar and a long one for the log.
        describe_failure: describes what is wrong with a training that ends with such averages, or None.
        curves_path: of a PNG of all values; None on ranks that plot nothing.
        plots: title of a plot of the metrics -> metric -> label.
        title: of the PNG.
    """

    def __init__(
        self,
        history: MetricHistory,
        *,
        n_steps: int,
        first_step: int,
        describe: Callable[[Averages], tuple[str, str]],
        describe_failure: Callable[[Averages], str | None],
        curves_path: Path | None,
        plots: dict[str, dict[str, str]],
        title: str,
    ) -> None:
        self._history = history
        self._curves = (
            None if curves_path is None else TrainingCurves(curves_path, plots | PLOTS, title=title)
        )
        self._n_steps, self._first_step = n_steps, first_step
        self._describe, self._describe_failure = describe, describe_failure
        self._started = time.perf_counter()

    def report(self, averages: Averages, *, lr: float, step: int, bar: tqdm) -> None:
        """Report averages since the last report.

        Args:
            averages: of the metrics.
            lr: learning rate.
            step: steps done.
            bar: of the training.
        """
        for name, value in {**averages, "lr": lr}.items():
            self._history.add(name, value, step)
        short, whole = self._describe(averages)
        pace = describe_pace(
            n_done=step - self._first_step,
            n_left=self._n_steps - step,
            elapsed_s=time.perf_counter() - self._started,
        )
        bar.set_postfix_str(short, refresh=False)
        bar.write(f"step {step} of {self._n_steps} ({pace}): {whole}; learning rate {lr:.2e}")
        is_last = step == self._n_steps
        failure = self._describe_failure(averages) if is_last else None
        if failure:
            bar.write(f"warning: {failure}")
        if self._curves is not None:
            self._curves.refresh(self._history.metrics, is_last=is_last, warn=bar.write)

    def report_validation(self, dice: float, *, step: int, bar: tqdm) -> None:
        """Report the mean Dice over the validation scans."""
        self._history.add(VALIDATION_METRIC, dice, step)
        best = find_best_step(self._history.metrics)
        rank = "the best so far" if best == step else f"the best so far was at step {best}"
        bar.write(f"step {step} of {self._n_steps}: mean Dice {dice:.3f} on the validation scans, {rank}")


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


class TimeBudget:
    """Decide when something is due, such that it takes at most a share of the time.

    Args:
        share: of the time, above 0.
        first_s: assumed duration of the first time.
        clock: returns seconds.
    """

    def __init__(self, share: float, *, first_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._clock = share, clock
        self._next_s = clock() + first_s / share

    def is_due(self) -> bool:
        """Return whether the budget is large enough for another time."""
        return self._clock() >= self._next_s

    @contextmanager
    def charge(self) -> Iterator[None]:
        """Charge the block's duration to the budget, also if it fails."""
        started = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            self._next_s = now + (now - started) / self._share
