"""The study runs what is missing, in processes of their own, and says what failed."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

import training
from bench.study import arms, run, trial
from bench.study.arms import PROFILES, START
from bench.study.run import all_trials, missing_trials, name_of, read_options, run_trials
from bench.study.trial import key_of, result_path

pytestmark = pytest.mark.usefixtures("narrow_encoder")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "BUILD_DIR", tmp_path / "build")
    monkeypatch.setattr(run, "LOG_DIR", tmp_path / "logs")


def test_the_quick_form_is_what_is_run_without_words():
    assert read_options([]).profiles == ["quick"]


def test_full_stands_for_the_profiles_of_a_cpu():
    options = read_options(["full", "phantom"])
    assert options.profiles == ["phantom_default", "phantom", "chaost2_choice", "chaost2"]


@pytest.mark.parametrize(
    ("words", "jobs"), [([], 6), (["--device", "cuda"], 1), (["--device", "cuda", "--jobs", "2"], 2)]
)
def test_a_gpu_has_one_trial_at_a_time(words, jobs, monkeypatch):
    monkeypatch.setattr(run, "usable_cores", lambda: 6)
    assert read_options(words).jobs == jobs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["phantoms"], "no such profile"),
        (["--arms", "none"], "invalid choice"),
        (["--jobs", "0"], "at least 1"),
        (["chaost2", "--arms", "no_prior"], "--arms no_prior: none is in chaost2"),
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


def _write(results, profile, arm, seed, key):
    path = result_path(results, profile, arm, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"profile": profile, "arm": arm, "seed": seed, "key": key}))


def test_trials_that_are_done_with_the_present_settings_are_not_run_again(tmp_path):
    words = ["phantom", "--arms", START, "no_prior", "--seeds", "2", "--results", str(tmp_path)]
    options = read_options(words)
    _write(tmp_path, "phantom", START, 1, key_of("phantom", START, 1))
    _write(tmp_path, "phantom", START, 2, "of other settings")
    result_path(tmp_path, "phantom", "no_prior", 1).write_text("{half")
    assert missing_trials(options) == [
        ("phantom", "no_prior", 1),
        ("phantom", START, 2),
        ("phantom", "no_prior", 2),
    ]


def test_the_kept_records_do_not_keep_anyone_from_running_the_study():
    assert read_options(["phantom"]).results != trial.RECORDED
    assert not missing_trials(read_options(["phantom", "--arms", START, "--results", str(trial.RECORDED)]))
    options = read_options(["chaost2", "--results", "results"])
    assert options.results.is_absolute()  # trials run elsewhere


def test_missing_volumes_end_the_study_before_any_trial_with_one_line(tmp_path, monkeypatch, capsys):
    words = ["chaost2", "--data-dir", str(tmp_path / "none"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(run.sys, "argv", ["run", *words])
    monkeypatch.setattr(run, "run_trials", lambda *_: pytest.fail("a trial was run"))
    assert run.main() == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path / "none") in line


def test_the_folder_of_real_scans_is_not_for_synthetic_ones(tmp_path):
    options = read_options(["full", "--data-dir", str(tmp_path)])
    of_phantom, of_chaost2 = (
        trial.config_of(profile, "strong", 1, options=options) for profile in ("phantom", "chaost2")
    )
    assert of_chaost2.layout.data_dir == tmp_path
    assert of_phantom.layout.data_dir != tmp_path
    elsewhere = trial.config_of("chaost2", "strong", 1, options=read_options(["full"]))
    assert elsewhere.path.log_dir != of_chaost2.path.log_dir  # or one would go on with the other's training


def test_trials_run_in_processes_of_their_own_and_failed_ones_are_returned(monkeypatch):
    real, seen = subprocess.Popen, []

    def start(command, **options):
        seen.append((command[2:], options["env"]["OMP_NUM_THREADS"]))
        fails = "no_prior" in command
        return real([sys.executable, "-c", f"print('hello'); raise SystemExit({int(fails)})"], **options)

    monkeypatch.setattr(run.subprocess, "Popen", start)
    monkeypatch.setattr(run, "usable_cores", lambda: 6)
    options = read_options(["phantom", "--jobs", "2", "--data-dir", "/scans", "--results", "/results"])
    trials = [("phantom", START, 1), ("phantom", "no_prior", 1), ("phantom", "cosine", 1)]
    assert run_trials(trials, options) == [("phantom", "no_prior", 1)]
    words = ["bench.study.trial", "phantom", START, "1", "--device", "cpu", "--data-dir", "/scans"]
    words += ["--results", "/results"]
    assert (words, "3") in seen
    assert run.log_path(trials[0]).read_text() == "hello\n"
    assert name_of(trials[1]) == "phantom no_prior 1"


@pytest.fixture(name="tiny_quick")
def _tiny_quick(monkeypatch, phantom_dir):
    tiny = PROFILES["quick"].values | {
        "model": {"encoder": "resnet18", "encoder_weights": None, "feature_width": 8},
        "precision": "fp32",  # processors without bfloat16 units are fifty times slower in it
        "phantom": {"n_scans": 10, "image_size_px": 48},
        "path": {"PHANTOM": {"data_dir": str(phantom_dir)}},
        "checkpoint_minutes": 0,
        "n_sv": 60,
    }
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], n_episodes=4, values=tiny))
    monkeypatch.setattr(arms, "N_MARKS", 2)  # scoring takes most of the time


def _check_record(record):
    assert (record["profile"], record["arm"], record["seed"]) == ("quick", "angle_only", 1)
    assert list(record["curve"]) == ["2", "4"]
    assert set(record["chunks"]["organs"]) == {"liver", "right kidney", "left kidney", "spleen"}
    assert len(record["every_support"]) > 1
    assert record["training"]["loss"]["steps"] == [1, 2, 3, 4]
    assert all(0 <= value <= 1 for value in record["every_support"].values())
    assert len(record["data"]) == 32


@pytest.mark.usefixtures("tiny_quick")
@pytest.mark.parametrize("stopped", ["in training", "in scoring", "between"])
def test_a_trial_that_is_stopped_goes_on_and_leaves_the_record_of_an_unbroken_one(
    stopped, tmp_path, monkeypatch
):
    def run_into(folder):
        options = read_options(["quick", "--results", str(tmp_path / folder)])
        return trial.read_record(trial.run_trial("quick", "angle_only", 1, options=options))

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    def interrupt_third(config, model, state, batch, **places):
        if state.step == 2:
            raise KeyboardInterrupt
        take_step(config, model, state, batch, **places)

    take_step, steps = training.take_step, []
    if stopped != "in training":  # then there is no new snapshot to be scored
        monkeypatch.setattr(trial, "_score", lambda *_args, **_options: {"curve": {}})
    unbroken = run_into("unbroken")
    assert not list((tmp_path / "build" / "trainings").iterdir())
    if stopped == "in training":
        _check_record(unbroken)
    with monkeypatch.context() as patched:
        if stopped == "in training":
            patched.setattr(training, "take_step", interrupt_third)
        else:
            patched.setattr(trial, "_score", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_into("broken")
    [work_dir] = (tmp_path / "build" / "trainings").iterdir()
    if stopped == "between":
        next(work_dir.rglob("trained.json")).unlink()

    def count(config, model, state, batch, **places):
        steps.append(state.step + 1)
        take_step(config, model, state, batch, **places)

    monkeypatch.setattr(training, "take_step", count)
    again = run_into("broken")
    assert steps == {"in training": [3, 4], "in scoring": [], "between": [1, 2, 3, 4]}[stopped]
    times = {"train_seconds": None}
    assert again | times == unbroken | times
    assert not work_dir.exists()
