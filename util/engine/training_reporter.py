"""Report a training's progress: log, progress bar, history and curves."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from util.engine.best_snapshot import VALIDATION_METRIC, find_best_step
from util.engine.training_curves import TrainingCurves
from util.engine.training_state import MetricHistory
from util.progress import describe_pace

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
