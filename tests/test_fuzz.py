"""A short, seeded slice of the fuzzing: no damaged file does harm, and harm would be reported."""

import os
import re
import signal
import sys
import time

import pytest

from tests.fuzzing.judging import CORRECT, OTHER, REFUSAL, classify
from tests.fuzzing.tries import Ending, run_apart

# Made within a second each; whole trainings are left to `python -m tests.fuzz`.
QUICK = ("snapshot", "checkpoint", "dataset.json", "zip download", "PNG download", "NIfTI label download")
TRIES_OF_EACH = 3


@pytest.fixture(scope="module", name="session")
def _session(tmp_path_factory):
    from tests.fuzzing.kinds import KINDS
    from tests.fuzzing.session import Session

    kinds = tuple(kind for kind in KINDS if kind.name in QUICK)
    return Session(tmp_path_factory.mktemp("fuzzing"), seed=1, round_=kinds)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="tries are forks")
@pytest.mark.parametrize("number", range(TRIES_OF_EACH * len(QUICK)))
def test_a_damaged_file_is_refused_in_one_line_or_does_no_harm(session, number):
    verdict = session.attempt(number)
    assert verdict.outcome in (REFUSAL, CORRECT), f"{verdict.kind}, {verdict.damage}: {verdict.message}"


def _classify(code=2, errors="error: a.pt: is damaged\n", result="", **changes):
    options = {"names": {"a.pt"}, "right": {"good"}, "faults": [], "several_lines": False}
    return classify(Ending(code, errors, result), **{**options, **changes})


def test_refusals_and_right_results_are_distinguished():
    assert _classify() == (REFUSAL, "error: a.pt: is damaged")
    assert _classify(errors="bar 10%\rerror: a.pt: no\n")[0] == REFUSAL
    assert _classify(0, "", "good") == (CORRECT, "")
    assert _classify(errors="error: a.pt: 1\nerror: a.pt: 2\n", several_lines=True)[0] == REFUSAL


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ({"code": 0, "errors": "", "result": "bad"}, "another result, in silence"),
        ({"code": 1, "errors": "Traceback ...\nKeyError: 'a'\n"}, "exit code 1: KeyError: 'a'"),
        ({"code": 2, "errors": "Traceback\nerror: a.pt: no\n"}, "exit code 2"),
        ({"code": -9, "errors": ""}, "exit code -9: no word"),
        ({"errors": ""}, "0 lines of error"),
        ({"errors": "error: a.pt: 1\nerror: a.pt: 2\n"}, "2 lines of error"),
        ({"errors": "error: is damaged\n"}, "names no file"),
        ({"faults": ["code was run"]}, "code was run"),
    ],
)
def test_anything_else_is_reported(ending, message):
    outcome, reported = _classify(**ending)
    assert outcome == OTHER
    assert message in reported


@pytest.mark.parametrize(
    ("consume", "code", "words"),
    [
        (lambda: (2, "found"), 2, ""),
        (lambda: [0][1], 1, "IndexError"),
        (lambda: (len(bytearray(3 << 30)), ""), 1, "MemoryError"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM, ""),
        (lambda: sys.exit(2), 1, "SystemExit"),
    ],
)
def test_a_try_ends_alone(tmp_path, consume, code, words):
    ending = run_apart(consume, tmp_path, seconds=20)
    assert ending.code == code
    assert re.search(words, ending.errors)
    assert ending.result == ("found" if code == 2 else "")


def test_a_try_that_runs_for_too_long_is_ended(tmp_path):
    ending = run_apart(lambda: time.sleep(60), tmp_path, seconds=0.3)
    assert ending.timed_out
    assert ending.code == -signal.SIGKILL
