"""A resumed training takes the settings it began with, and changes of them are named."""

import json

import pytest

from util.errors import UserError
from util.resumption import adopt, find_changes, read_run_config
from util.runs import checkpoint_path, find_resumable, snapshot_path

DEFAULTS = {"n_steps": 100, "optim": {"lr": 0.1, "new": 1}, "path": {"a": "here"}, "resume": None}
SAVED = {"n_steps": 7, "optim": {"lr": 0.5, "old": 2}, "path": {"a": "there"}, "resume": "3", "gone": 1}


def test_settings_of_before_take_the_defaults_places_where_both_are_known():
    assert adopt(DEFAULTS, SAVED, but=("resume",)) == {
        "n_steps": 7,
        "optim": {"lr": 0.5, "new": 1},
        "path": {"a": "there"},
        "resume": None,
    }
    assert DEFAULTS["optim"] == {"lr": 0.1, "new": 1}  # not changed


def test_changes_are_named_with_both_values():
    now = {"n_steps": 7, "optim": {"lr": 0.2, "old": 2}, "path": {"a": "here"}}
    assert find_changes(SAVED, now, free=("path",)) == ["optim.lr: 0.5, now 0.2"]
    assert find_changes(SAVED, now, free=()) == ["optim.lr: 0.5, now 0.2", "path.a: there, now here"]
    assert find_changes(SAVED, SAVED, free=()) == []


@pytest.mark.parametrize("text", [None, "{half", "[1]"])
def test_a_record_that_cannot_be_read_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: .*; train anew without resume"):
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


def test_the_latest_run_with_a_checkpoint_is_gone_on_with(tmp_path):
    _run(tmp_path, 1, checkpoint=5, snapshot=5)
    second = _run(tmp_path, 2, checkpoint=3)
    _run(tmp_path, 3)  # was stopped before its first checkpoint
    assert find_resumable(tmp_path, "latest") == (second, False)
    assert find_resumable(tmp_path, "1")[0].name == "1"
    assert find_resumable(tmp_path, str(second)) == (second, False)


def test_without_any_run_the_latest_is_none(tmp_path):
    assert find_resumable(tmp_path / "absent", "latest") is None


def test_a_finished_run_is_said_to_be(tmp_path):
    _run(tmp_path, 1, checkpoint=5)
    second = _run(tmp_path, 2, snapshot=9)
    assert find_resumable(tmp_path, "latest") == (second, True)


@pytest.mark.parametrize(
    ("resume", "message"),
    [("7", "no such run folder"), ("gone/1", "no such run folder"), ("1", "no checkpoint")],
)
def test_a_run_that_cannot_be_gone_on_with_is_refused(tmp_path, resume, message):
    _run(tmp_path, 1)
    with pytest.raises(UserError, match=f"^resume={resume}: .*{message}"):
        find_resumable(tmp_path, resume)
