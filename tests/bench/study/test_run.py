"""The study runs missing trials in separate processes and reports failures."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

import training
from bench.study import arms, run, trial
from bench.study.arms import N_SEEDS, PROFILES, REFERENCE
from bench.study.run import list_trials, missing_trials, parse_arguments, run_trials
from bench.study.trial import Trial

pytestmark = pytest.mark.usefixtures("narrow_encoder")


@pytest.fixture(autouse=True)
def _temporary_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "BUILD_DIR", tmp_path / "build")
    monkeypatch.setattr(run, "LOG_DIR", tmp_path / "logs")


def test_the_default_is_the_quick_profile():
    assert parse_arguments([]).profiles == ["quick"]


def test_full_selects_the_profiles_for_a_cpu():
    options = parse_arguments(["full", "phantom"])
    assert set(options.profiles) == {name for name in PROFILES if "gpu" not in name and name != "quick"}
    assert len(options.profiles) == len(set(options.profiles))


@pytest.mark.parametrize(
    ("words", "jobs"), [([], 6), (["--device", "cuda"], 1), (["--device", "cuda", "--jobs", "2"], 2)]
)
def test_a_gpu_runs_one_trial_at_a_time_by_default(words, jobs, monkeypatch):
    monkeypatch.setattr(run, "usable_cores", lambda: 6)
    assert parse_arguments(words).jobs == jobs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["phantoms"], "unknown profile"),
        (["--arms", "none"], "invalid choice"),
        (["--jobs", "0"], "at least 1"),
        (["chaost2", "--arms", "no_prior"], "--arms no_prior: not in chaost2"),
    ],
)
def test_invalid_arguments_are_refused_with_code_2(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(words)
    assert message in capsys.readouterr().err


def test_all_arms_run_with_the_first_seed_before_the_second():
    trials = list_trials(parse_arguments(["phantom"]))
    n_arms = len(trials) // N_SEEDS
    assert {seed for _, _, seed in trials[:n_arms]} == {1}
    assert len({arm for _, arm, _ in trials[:n_arms]}) == n_arms


def _write(results, trial, key):
    path = trial.record_path(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**trial._asdict(), "key": key}))


def test_trials_with_a_record_of_the_current_settings_are_not_repeated(tmp_path):
    words = ["phantom", "--arms", REFERENCE, "no_prior", "--seeds", "2", "--results", str(tmp_path)]
    options = parse_arguments(words)
    finished = Trial("phantom", REFERENCE, 1)
    _write(tmp_path, finished, finished.key)
    _write(tmp_path, Trial("phantom", REFERENCE, 2), "key of other settings")
    Trial("phantom", "no_prior", 1).record_path(tmp_path).write_text("{half")
    assert missing_trials(options) == [
        ("phantom", "no_prior", 1),
        ("phantom", REFERENCE, 2),
        ("phantom", "no_prior", 2),
    ]


def test_the_default_results_folder_is_not_that_of_the_recorded_results():
    assert parse_arguments(["phantom"]).results != trial.RECORDED
    assert not missing_trials(
        parse_arguments(["phantom", "--arms", REFERENCE, "--results", str(trial.RECORDED)])
    )
    options = parse_arguments(["chaost2", "--results", "results"])
    assert options.results.is_absolute()  # trials run in another working directory


def test_missing_volumes_are_reported_in_one_line_before_any_trial(tmp_path, monkeypatch, capsys):
    words = ["chaost2", "--data-dir", str(tmp_path / "none"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(run.sys, "argv", ["run", *words])
    monkeypatch.setattr(run, "run_trials", lambda *_: pytest.fail("a trial ran"))
    assert run.main() == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path / "none") in line


def test_the_folder_of_real_scans_is_not_used_for_synthetic_ones(tmp_path):
    options = parse_arguments(["full", "--data-dir", str(tmp_path)])
    synthetic, real = (Trial(profile, "strong", 1).config(options) for profile in ("phantom", "chaost2"))
    assert real.layout.data_dir == tmp_path
    assert synthetic.layout.data_dir != tmp_path
    default_folder = Trial("chaost2", "strong", 1).config(parse_arguments(["full"]))
    assert default_folder.path.log_dir != real.path.log_dir  # or one would resume the other's training


def test_trials_run_in_separate_processes_and_failed_ones_are_returned(monkeypatch):
    popen, started = subprocess.Popen, []

    def start(command, **options):
        started.append((command[2:], options["env"]["OMP_NUM_THREADS"]))
        fails = "no_prior" in command
        return popen([sys.executable, "-c", f"print('hello'); raise SystemExit({int(fails)})"], **options)

    monkeypatch.setattr(run.subprocess, "Popen", start)
    monkeypatch.setattr(run, "usable_cores", lambda: 6)
    options = parse_arguments(["phantom", "--jobs", "2", "--data-dir", "/scans", "--results", "/results"])
    trials = [Trial("phantom", arm, 1) for arm in (REFERENCE, "no_prior", "cosine")]
    assert run_trials(trials, options) == [("phantom", "no_prior", 1)]
    words = ["bench.study.trial", "phantom", REFERENCE, "1", "--device", "cpu", "--data-dir", "/scans"]
    words += ["--results", "/results"]
    assert (words, "3") in started
    assert run.log_path(trials[0]).read_text() == "hello\n"
    assert str(trials[1]) == "phantom no_prior 1"


@pytest.fixture(name="tiny_quick")
def _tiny_quick(monkeypatch, phantom_dir):
    tiny = PROFILES["quick"].values | {
        "model": {"encoder": "resnet18", "encoder_weights": None, "feature_width": 8},
        "precision": "fp32",  # bfloat16 is fifty times slower on processors without support
        "phantom": {"n_scans": 10, "image_size_px": 48},
        "path": {"PHANTOM": {"data_dir": str(phantom_dir)}},
        "checkpoint_minutes": 0,
        "n_sv": 60,
        "test_label": [1],
    }
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], n_episodes=4, values=tiny))
    monkeypatch.setattr(arms, "N_CURVE_POINTS", 2)  # scoring takes most of the time


def _check_record(record):
    assert (record["profile"], record["arm"], record["seed"]) == ("quick", "angle_only", 1)
    assert list(record["curve"]) == ["2", "4"]
    assert set(record["chunks"]["organs"]) == {"liver"}
    assert len(record["every_support"]) > 1
    assert record["training"]["loss"]["steps"] == [1, 2, 3, 4]
    assert all(0 <= value <= 1 for value in record["every_support"].values())
    assert len(record["data"]) == 32


@pytest.mark.usefixtures("tiny_quick")
@pytest.mark.parametrize("interrupted", ["in training", "in scoring", "between"])
def test_an_interrupted_trial_resumes_with_the_record_of_an_uninterrupted_one(
    interrupted, tmp_path, monkeypatch
):
    def run_trial(folder):
        options = parse_arguments(["quick", "--results", str(tmp_path / folder)])
        return trial.read_record(trial.run_trial(Trial("quick", "angle_only", 1), options))

    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    def interrupt_third(config, model, state, batch, **options):
        if state.step == 2:
            raise KeyboardInterrupt
        take_step(config, model, state, batch, **options)

    take_step, steps = training.take_step, []
    if interrupted != "in training":  # scoring is not tested again
        monkeypatch.setattr(trial, "_score", lambda *_args, **_options: {"curve": {}})
    uninterrupted = run_trial("uninterrupted")
    assert not list((tmp_path / "build" / "trainings").iterdir())
    if interrupted == "in training":
        _check_record(uninterrupted)
    with monkeypatch.context() as patched:
        if interrupted == "in training":
            patched.setattr(training, "take_step", interrupt_third)
        else:
            patched.setattr(trial, "_score", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_trial("interrupted")
    [work_dir] = (tmp_path / "build" / "trainings").iterdir()
    if interrupted == "between":
        next(work_dir.rglob("trained.json")).unlink()

    def count(config, model, state, batch, **options):
        steps.append(state.step + 1)
        take_step(config, model, state, batch, **options)

    monkeypatch.setattr(training, "take_step", count)
    resumed = run_trial("interrupted")
    assert steps == {"in training": [3, 4], "in scoring": [], "between": [1, 2, 3, 4]}[interrupted]
    times = {"train_seconds": None}
    assert resumed | times == uninterrupted | times
    assert not work_dir.exists()


@pytest.mark.parametrize(
    ("profile", "arm", "scored_by"),
    [
        ("phantom_scan", "strong", "score_scan_methods"),
        ("chaost2_scan", "strong", "score_scan_methods"),
        ("chaost2_scan", "strong_small_first", "score_start"),
        ("phantom_start", "strong", "score_start"),
        ("phantom_start", "strong_gaps", "score_start"),
    ],
)
def test_an_arm_with_a_twin_is_scored_in_a_few_rows(monkeypatch, profile, arm, scored_by):
    for name in ("score_scan_methods", "score_start"):
        monkeypatch.setattr(trial, name, lambda config, snapshot, name=name: {name: snapshot})
    monkeypatch.setattr(trial, "_list_snapshots", lambda config: {500: "half", 1000: "last"})
    assert trial._score_methods(None, Trial(profile, arm, 1)) == {scored_by: "last"}


def test_another_number_of_adaptation_steps_makes_another_key(monkeypatch):
    result = Trial("chaost2_scan", "strong", 1)
    key = result.key
    changed = replace(PROFILES["chaost2_scan"], adaptation_steps=1)
    monkeypatch.setitem(PROFILES, "chaost2_scan", changed)
    assert result.key != key
