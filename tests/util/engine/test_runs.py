"""Runs are found by number, not by name, and by what they hold."""

import re

import pytest

from util.engine.runs import (
    BEST,
    best_snapshot_path,
    checkpoint_path,
    find_selected_snapshot,
    find_snapshot,
    latest_snapshot_in,
    list_runs,
    remove_run_leftovers,
    snapshot_path,
)
from util.errors import UserError


def _add_run(folder, number, *steps):
    run = folder / str(number)
    (run / "snapshots").mkdir(parents=True)
    for step in steps:
        snapshot_path(run, step).touch()
    return run


def test_snapshots_are_named_after_their_steps(tmp_path):
    assert snapshot_path(tmp_path, 500) == tmp_path / "snapshots" / "snapshot_000500.pt"
    assert snapshot_path(tmp_path, 1_234_567).name == "snapshot_1234567.pt"


def test_runs_are_ordered_by_number_newest_first(tmp_path):
    for number in (9, 10, 1, 2, 100):
        _add_run(tmp_path, number)
    (tmp_path / "_sources").mkdir()
    (tmp_path / "11").touch()  # a file
    (tmp_path / "12a").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["100", "10", "9", "2", "1"]


def test_no_folder_means_no_runs(tmp_path):
    assert list_runs(tmp_path / "gone") == []
    assert list_runs(tmp_path) == []


def test_the_latest_snapshot_has_the_most_steps(tmp_path):
    # By name, 999999 would come after 1000000.
    run = _add_run(tmp_path, 1, 10, 999_999, 1_000_000)
    for other in ("snapshot_2000000.pt.tmp", "snapshot_last.pt", ".snapshot_3000000.pt"):
        (run / "snapshots" / other).touch()
    assert latest_snapshot_in(run) == snapshot_path(run, 1_000_000)


def test_a_run_without_snapshots_has_no_latest(tmp_path):
    assert latest_snapshot_in(_add_run(tmp_path, 1)) is None
    assert latest_snapshot_in(tmp_path / "gone") is None


def test_the_newest_run_that_has_a_snapshot_is_used(tmp_path):
    _add_run(tmp_path, 9, 500)
    _add_run(tmp_path, 10, 20, 100)
    _add_run(tmp_path, 11)  # stopped before its first snapshot
    assert find_snapshot(tmp_path, None) == tmp_path / "10" / "snapshots" / "snapshot_000100.pt"


def test_a_snapshot_or_a_run_folder_can_be_named(tmp_path):
    run = _add_run(tmp_path, 1, 10, 20)
    _add_run(tmp_path, 2, 30)
    assert find_snapshot(tmp_path, str(snapshot_path(run, 10))) == snapshot_path(run, 10)
    assert find_snapshot(tmp_path, str(run)) == snapshot_path(run, 20)
    (tmp_path / "renamed.pt").touch()
    assert find_snapshot(tmp_path / "gone", str(tmp_path / "renamed.pt")) == tmp_path / "renamed.pt"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("3", r"holds no snapshots/snapshot_<step>\.pt"),
        ("gone", "no such file or folder"),
        ("gone.pt", "no such file or folder"),
    ],
)
def test_a_named_path_without_a_snapshot_is_refused(tmp_path, name, fault):
    _add_run(tmp_path, 1, 10)
    _add_run(tmp_path, 3)
    with pytest.raises(UserError, match=f"{name}: {fault}; give a snapshot"):
        find_snapshot(tmp_path, str(tmp_path / name))


def test_without_a_trained_run_the_error_explains_how_to_train(tmp_path):
    _add_run(tmp_path, 1)
    for folder in (tmp_path, tmp_path / "gone"):
        message = rf"{re.escape(str(folder))}: holds no trained run; train first .* or set reload_model_path"
        with pytest.raises(UserError, match=message):
            find_snapshot(folder, None)


def test_only_temporary_files_of_a_killed_training_are_removed(tmp_path):
    remaining = [tmp_path / "run.json", snapshot_path(tmp_path, 1), checkpoint_path(tmp_path, 2)]
    for path in remaining:
        path.parent.mkdir(exist_ok=True)
        path.write_text("whole")
        (path.parent / f".{path.name}.abcd1234.tmp").write_text("half")
    remove_run_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(remaining)


def test_the_best_snapshot_is_found_only_on_request(tmp_path):
    _add_run(tmp_path, 1, 100)
    newest = _add_run(tmp_path, 2, 100, 200)
    best_snapshot_path(newest).touch()
    assert best_snapshot_path(newest) == newest / "snapshots" / "best.pt"
    for reload_path in (None, str(newest)):
        assert find_snapshot(tmp_path, reload_path) == snapshot_path(newest, 200)
    assert find_snapshot(tmp_path, BEST) == best_snapshot_path(newest)
    assert find_snapshot(tmp_path, str(best_snapshot_path(newest))) == best_snapshot_path(newest)


def test_a_newest_run_without_best_snapshot_is_refused_rather_than_passed_over(tmp_path):
    best_snapshot_path(_add_run(tmp_path, 1, 100)).touch()
    _add_run(tmp_path, 2, 100)
    with pytest.raises(UserError, match=r"reload_model_path=best: .*2/snapshots/best.pt is missing"):
        find_snapshot(tmp_path, BEST)


def test_the_best_snapshot_of_any_run_can_be_named(tmp_path):
    for number in (1, 2):
        best_snapshot_path(_add_run(tmp_path, number, 100)).touch()
    _add_run(tmp_path, 3)  # stopped before its first snapshot
    assert find_snapshot(tmp_path / "gone", str(tmp_path / "1/best")) == best_snapshot_path(tmp_path / "1")
    assert find_snapshot(tmp_path / "gone", str(tmp_path / "best")) == best_snapshot_path(tmp_path / "2")
    best_snapshot_path(tmp_path / "1").unlink()
    message = (
        rf"1/snapshots/best.pt is missing, .* without validate_every; give {tmp_path / '1'} for its last"
    )
    with pytest.raises(UserError, match=message):
        find_snapshot(tmp_path, str(tmp_path / "1/best"))
    with pytest.raises(UserError, match=r"gone/best: no such file or folder"):
        find_snapshot(tmp_path, str(tmp_path / "gone/best"))


def test_without_dataset_and_fold_best_is_that_of_the_only_training(tmp_path):
    with pytest.raises(UserError, match=rf"reload_model_path=best: {tmp_path} holds no trained run; train"):
        find_selected_snapshot(BEST, log_dir=tmp_path)
    run = _add_run(tmp_path / "CHAOST2/fold_0/training", 1, 100)
    best_snapshot_path(run).touch()
    _add_run(tmp_path / "SABS/fold_0/training", 1)  # stopped before its first snapshot
    assert find_selected_snapshot(BEST, log_dir=tmp_path) == best_snapshot_path(run)
    assert find_selected_snapshot(str(run), log_dir=tmp_path) == snapshot_path(run, 100)
    _add_run(tmp_path / "CHAOST2/fold_1/training", 1, 100)
    message = rf"trainings of 2 datasets or folds; select one, such as {run.parent}/best"
    with pytest.raises(UserError, match=message):
        find_selected_snapshot(BEST, log_dir=tmp_path)
