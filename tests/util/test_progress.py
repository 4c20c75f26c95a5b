"""Progress bars move on a terminal and stay short in a log file."""

import sys

import pytest

from util.progress import describe_duration, describe_pace, note_on_bar, progress_bar


@pytest.fixture(name="terminal")
def _terminal(monkeypatch):
    """Make stderr a terminal or not."""
    return lambda present: monkeypatch.setattr(sys.stderr, "isatty", lambda: present, raising=False)


def test_a_log_file_gets_few_lines(terminal, capsys):
    terminal(False)
    assert list(progress_bar(range(50), desc="slices")) == list(range(50))
    # One when it starts and one when it ends.
    assert capsys.readouterr().err.count("\r") <= 2


@pytest.mark.parametrize(("present", "interval_s"), [(True, 0.2), (False, 30.0)])
def test_bars_are_redrawn_often_only_on_a_terminal(terminal, present, interval_s):
    terminal(present)
    with progress_bar(total=3) as bar:
        assert bar.mininterval == interval_s


def test_options_of_the_caller_take_precedence(terminal):
    terminal(False)
    with progress_bar(total=3, mininterval=5, disable=False, desc="x") as bar:
        assert bar.mininterval == 5


def test_a_note_respects_the_refresh_interval(capsys):
    bar = progress_bar(total=2, mininterval=1000)
    capsys.readouterr()
    note_on_bar(bar, "encoding scan 3")
    assert capsys.readouterr().err == ""
    bar.last_print_t -= 2000
    note_on_bar(bar, "encoding scan 4")
    assert "encoding scan 4" in capsys.readouterr().err
    bar.close()


def test_a_disabled_bar_ignores_notes(capsys):
    with progress_bar(total=2, disable=True) as bar:
        note_on_bar(bar, "encoding")
        bar.update()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (89.4, "89 s"),
        (120, "2 min"),
        (89 * 60, "89 min"),
        (2 * 3600, "2.0 h"),
        (9e5, "250.0 h"),
    ],
)
def test_a_duration_has_its_natural_unit(seconds, text):
    assert describe_duration(seconds) == text


def test_the_time_left_follows_from_the_pace_so_far():
    assert describe_pace(n_done=100, n_left=900, elapsed_s=50) == "0.5 s a step, 8 min left"
    assert describe_pace(n_done=3, n_left=0, elapsed_s=6) == "2 s a step, done"
