"""A resumed training takes over its former settings, and changes are named."""

import json

import pytest

from util.engine import resume
from util.engine.resume import adopt_values, choose_former_run, find_changes, former_settings, read_run_config
from util.engine.runs import checkpoint_path, list_resumable, snapshot_path
from util.errors import NothingToDo, UserError

DEFAULTS = {"n_steps": 100, "optim": {"lr": 0.1, "new": 1}, "path": {"a": "here"}, "resume": None}
SAVED = {"n_steps": 7, "optim": {"lr": 0.5, "old": 2}, "path": {"a": "there"}, "resume": "3", "gone": 1}


def test_former_settings_override_defaults_of_known_keys():
    assert adopt_values(DEFAULTS, SAVED, exclude=("resume",)) == {
        "n_steps": 7,
        "optim": {"lr": 0.5, "new": 1},
        "path": {"a": "there"},
        "resume": None,
    }
    assert DEFAULTS["optim"] == {"lr": 0.1, "new": 1}  # not changed


def test_changes_are_named_with_both_values():
    now = {"n_steps": 7, "optim": {"lr": 0.2, "old": 2}, "path": {"a": "here"}}
    assert find_changes(SAVED, now, ignored_keys=("path",)) == ["optim.lr: 0.5, now 0.2"]
    assert find_changes(SAVED, now, ignored_keys=()) == ["optim.lr: 0.5, now 0.2", "path.a: there, now here"]
    assert find_changes(SAVED, SAVED, ignored_keys=()) == []


@pytest.mark.parametrize("text", [None, "{half", "[1]"])
def test_a_record_that_cannot_be_read_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: .*; start a new training without resume"):
        read_run_config(tmp_path)


def test_a_record_is_read_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SAVED))
    assert read_run_config(tmp_path) == SAVED


def _run(folder, number, *, checkpoint=None, snapshot=None):
    run_dir = folder / str(number)
    run_dir.mkdir(parents=True)
    for path in (
        checkpoint and checkpoint_path(run_dir, checkpoint),
        snapshot and snapshot_path(run_dir, snapshot),
    ):
        if path:
            path.parent.mkdir()
            path.touch()
    return run_dir


def test_the_latest_run_with_a_checkpoint_is_listed_first(tmp_path):
    _run(tmp_path, 1, checkpoint=5, snapshot=5)
    second = _run(tmp_path, 2, checkpoint=3)
    _run(tmp_path, 3)  # was stopped before its first checkpoint
    assert list_resumable(tmp_path, "latest") == [(second, False), (tmp_path / "1", False)]
    assert list_resumable(tmp_path, "1") == [(tmp_path / "1", False)]
    assert list_resumable(tmp_path, str(second)) == [(second, False)]


def test_a_tilde_in_the_folder_to_resume_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run_dir = _run(tmp_path, 1, checkpoint=5)
    assert list_resumable(tmp_path / "absent", "~/1") == [(run_dir, False)]


def test_without_runs_there_is_nothing_to_resume(tmp_path):
    assert list_resumable(tmp_path / "absent", "latest") == []


def test_a_finished_run_is_marked(tmp_path):
    _run(tmp_path, 1, checkpoint=5)
    second = _run(tmp_path, 2, snapshot=9)
    assert list_resumable(tmp_path, "latest") == [(second, True), (tmp_path / "1", False)]


@pytest.mark.parametrize(
    ("resume", "message"),
    [("7", "no such run folder"), ("gone/1", "no such run folder"), ("1", "no checkpoint")],
)
def test_a_run_that_cannot_be_resumed_is_refused(tmp_path, resume, message):
    _run(tmp_path, 1)
    with pytest.raises(UserError, match=f"^resume={resume}: .*{message}"):
        list_resumable(tmp_path, resume)


SETTINGS = {"seed": 1, "optim": {"lr": 0.1}}


def _choose(folder, resume="latest", **choices):
    choices = {"settings": SETTINGS, "is_requested": True, "allows_changes": False, **choices}
    return choose_former_run(folder, resume, complete=dict, **choices)


def _settings(run_dir, seed, *, job=None):
    (run_dir / "config.json").write_text(json.dumps({**SETTINGS, "seed": seed}))
    (run_dir / "run.json").write_text(json.dumps({"meta": {"job": job}}))
    return run_dir


def test_the_newest_run_of_the_same_settings_is_resumed(tmp_path):
    own = _settings(_run(tmp_path, 1, checkpoint=5), seed=1)
    _settings(_run(tmp_path, 2, checkpoint=5), seed=2)
    _settings(_run(tmp_path, 3, snapshot=9), seed=3)
    assert _choose(tmp_path) == own
    changed = {**SETTINGS, "optim": {"lr": 0.2}}
    with pytest.raises(UserError, match=r"1 was trained with optim\.lr: 0\.1, now 0\.2; leave that out"):
        _choose(tmp_path, settings=changed)
    with pytest.raises(UserError, match=r"3 was trained with seed: 3, now 1; .*; leave resume out"):
        _choose(tmp_path, "3", settings=changed)
    assert _choose(tmp_path, settings={**changed, "seed": 4}) is None  # a new one
    with pytest.raises(NothingToDo, match="3 is finished"):
        _choose(tmp_path, allows_changes=True)


def test_a_restarted_job_resumes_only_its_own_run(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "JOB_ID", "mine")
    own = _settings(_run(tmp_path, 1, checkpoint=5), seed=1, job="mine")
    _settings(_run(tmp_path, 2, checkpoint=5), seed=1, job="another")
    _settings(_run(tmp_path, 3, snapshot=9), seed=1, job="mine")
    assert _choose(tmp_path, is_requested=False) == own
    assert _choose(tmp_path, is_requested=False, settings={**SETTINGS, "seed": 4}) is None


def test_defaults_come_from_the_newest_run_that_matches_the_request(tmp_path):
    defaults = {"seed": 0, "n_steps": 100, "resume": None}
    runs = []
    for number, seed in ((2, 2), (1, 1)):
        runs.append(_run(tmp_path, number, checkpoint=5))
        (runs[-1] / "config.json").write_text(json.dumps({"seed": seed, "n_steps": number}))
    requests = [{"seed": seed, "resume": "latest"} for seed in (1, 2, 3)]
    n_steps = [
        former_settings(runs, defaults, request, with_present_names=dict, check=dict)["n_steps"]
        for request in requests
    ]
    assert n_steps == [1, 2, 100]
    assert former_settings(runs, defaults, {}, with_present_names=dict, check=dict)["n_steps"] == 2
    assert former_settings([], defaults, {}, with_present_names=dict, check=dict) == defaults
