"""The study runs what is missing, in processes of their own, and says what failed."""

import json
import subprocess
import sys

import pytest

from bench.study import run, trial
from bench.study.arms import PROFILES, START
from bench.study.run import all_trials, missing_trials, name_of, read_options, run_trials
from bench.study.trial import key_of, result_path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "RESULTS_DIR", tmp_path / "results")
    monkeypatch.setattr(run, "LOG_DIR", tmp_path / "logs")


def test_the_quick_form_is_what_is_run_without_words():
    assert read_options([]).profiles == ["quick"]


def test_full_stands_for_the_profiles_of_a_cpu():
    options = read_options(["full", "phantom"])
    assert options.profiles == ["phantom", "chaost2_choice", "chaost2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["phantoms"], "no such profile"),
        (["--arms", "none"], "invalid choice"),
        (["--jobs", "0"], "at least 1"),
    ],
)
def test_what_is_not_there_is_refused_with_code_2(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        read_options(words)
    assert message in capsys.readouterr().err


def test_every_arm_comes_with_the_first_seed_before_any_with_the_second():
    trials = all_trials(read_options(["phantom"]))
    n_arms = len(trials) // PROFILES["phantom"].n_seeds
    assert {seed for _, _, seed in trials[:n_arms]} == {1}
    assert len({arm for _, arm, _ in trials[:n_arms]}) == n_arms


def _write(profile, arm, seed, key):
    path = result_path(profile, arm, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"key": key}))


def test_trials_that_are_done_with_the_present_settings_are_not_run_again():
    options = read_options(["phantom", "--arms", START, "no_prior", "--seeds", "2"])
    _write("phantom", START, 1, key_of("phantom", START, 1))
    _write("phantom", START, 2, "of other settings")
    result_path("phantom", "no_prior", 1).write_text("{half")
    assert missing_trials(options) == [
        ("phantom", "no_prior", 1),
        ("phantom", START, 2),
        ("phantom", "no_prior", 2),
    ]


def test_trials_run_in_processes_of_their_own_and_failed_ones_are_returned(monkeypatch):
    real, seen = subprocess.Popen, []

    def start(command, **options):
        seen.append((command[2:], options["env"]["OMP_NUM_THREADS"]))
        fails = "no_prior" in command
        return real([sys.executable, "-c", f"print('hello'); raise SystemExit({int(fails)})"], **options)

    monkeypatch.setattr(run.subprocess, "Popen", start)
    monkeypatch.setattr(run, "usable_cores", lambda: 6)
    options = read_options(["phantom", "--jobs", "2", "--data-dir", "/scans"])
    trials = [("phantom", START, 1), ("phantom", "no_prior", 1), ("phantom", "cosine", 1)]
    assert run_trials(trials, options) == [("phantom", "no_prior", 1)]
    words = ["bench.study.trial", "phantom", START, "1", "--device", "cpu", "--data-dir", "/scans"]
    assert (words, "3") in seen
    assert run.log_path(trials[0]).read_text() == "hello\n"
    assert name_of(trials[1]) == "phantom no_prior 1"


def test_a_trial_trains_scores_and_leaves_one_record(monkeypatch, phantom_dir):
    tiny = PROFILES["quick"].values | {
        "model": {"encoder": "resnet18", "encoder_weights": None, "feature_width": 8},
        "phantom": {"n_scans": 10, "image_size_px": 48},
        "n_sv": 60,
        "device": "cpu",
    }
    from dataclasses import replace

    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], n_episodes=4, values=tiny))
    options = read_options(["quick", "--data-dir", str(phantom_dir)])
    path = trial.run_trial("quick", "no_prior", 3, options=options)
    record = json.loads(path.read_text())
    assert path == result_path("quick", "no_prior", 3)
    assert trial.is_done("quick", "no_prior", 3)
    assert list(record["curve"]) == ["1", "2", "3", "4"]
    assert set(record["chunks"]["organs"]) == {"liver", "right kidney", "left kidney", "spleen"}
    assert len(record["every_support"]) > 1
    assert record["training"]["loss"]["steps"] == [1, 2, 3, 4]
    assert all(0 <= value <= 1 for value in record["every_support"].values())
