"""Progress bars move on a terminal and stay short in a log file."""

import sys

import pytest

from util.progress import note_on_bar, progress_bar


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
