"""The plot of a training's metrics: what it shows, when it is drawn, and that it stops no training."""

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REAL_PLOT_CURVES
from util.engine import training_reporter
from util.engine.training_reporter import FIRST_PLOT_S, MAX_TIME_SHARE, TrainingCurves
from util.errors import UserError

HISTORY = {
    "loss": {"steps": [1, 2, 3], "values": [1.0, float("nan"), 0.5]},
    "lr": {"steps": [1, 2, 3], "values": [0.1, 0.1, 0.01]},
    "dice": {"steps": [], "values": []},
}
PANELS = {"loss": {"loss": "total", "absent": "x"}, "rate": {"lr": "rate"}, "Dice": {"dice": "Dice"}}


class _Clock:
    """Seconds that pass only when told to, or when a plot is drawn."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that a plot advances by two seconds."""
    clock = _Clock()
    clock.n_plots = 0

    def draw(*_args, **_options):
        clock.now += 2.0
        clock.n_plots += 1

    monkeypatch.setattr(training_reporter, "plot_curves", draw)
    return clock


def curves(path, clock):
    return TrainingCurves(path, PANELS, title="t", clock=clock)


def refuse(text):
    raise AssertionError(text)


def test_a_plot_shows_one_panel_for_each_title_with_values(tmp_path):
    path = tmp_path / "curves.png"
    REAL_PLOT_CURVES(HISTORY, PANELS, path, title="x")
    picture = np.asarray(Image.open(path).convert("L"))
    # Two panels, hence two columns.
    halves = np.split(picture[40:, : picture.shape[1] // 2 * 2], 2, axis=1)
    assert all((half < 128).sum() > 300 for half in halves)
    REAL_PLOT_CURVES(HISTORY, {"rate": PANELS["rate"]}, path, title="x")
    assert abs(np.asarray(Image.open(path)).shape[1] - picture.shape[1] / 2) <= 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_a_history_without_values_gives_an_empty_figure(tmp_path):
    REAL_PLOT_CURVES({}, PANELS, tmp_path / "curves.png", title="x")
    assert (tmp_path / "curves.png").is_file()


def test_plots_take_at_most_their_share_of_the_time(tmp_path, clock):
    plot, start = curves(tmp_path / "c.png", clock), clock.now
    while clock.now < start + 5000:
        clock.now += 1.0
        plot.refresh(HISTORY, is_last=False, warn=refuse)
    assert clock.n_plots * 2.0 <= MAX_TIME_SHARE * (clock.now - start)
    assert clock.n_plots >= 20
    assert FIRST_PLOT_S > 0


def test_the_end_is_plotted_at_once(tmp_path, clock):
    plot = curves(tmp_path / "c.png", clock)
    plot.refresh(HISTORY, is_last=False, warn=refuse)
    assert clock.n_plots == 0
    plot.refresh(HISTORY, is_last=True, warn=refuse)
    assert clock.n_plots == 1


@pytest.mark.parametrize("error", [UserError("c.png: cannot be written (disk full)"), ImportError("no kiwi")])
def test_a_plot_that_fails_causes_one_warning(tmp_path, clock, monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(training_reporter, "plot_curves", fail)
    plot, warnings = curves(tmp_path / "c.png", clock), []
    for _ in range(2):
        plot.refresh(HISTORY, is_last=True, warn=warnings.append)
    assert warnings == [f"warning: c.png is not drawn any more ({error})"]
