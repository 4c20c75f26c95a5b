"""Which training is evaluated, and what is said of newer ones."""

import json

import pytest

from util.engine.training_choice import choose_training, read_training_config
from util.errors import UserError


def make_run(folder, number, *, step=None, **config):
    run_dir = folder / str(number)
    (run_dir / "snapshots").mkdir(parents=True)
    if config:
        (run_dir / "config.json").write_text(json.dumps(config))
    if step is not None:
        (run_dir / f"snapshots/snapshot_{step:06d}.pt").write_text("")
    return run_dir


def choose(folder, folds="overlapping", reload_path=None):
    choice = choose_training(folder, reload_path, folds=folds)
    return choice.snapshot.relative_to(folder).as_posix(), list(choice.remarks)


def test_the_newest_run_with_a_snapshot_is_chosen_in_silence(tmp_path):
    for number in (9, 10):
        make_run(tmp_path, number, step=3, seed=1)
    assert choose(tmp_path) == ("10/snapshots/snapshot_000003.pt", [])


def test_a_newer_unfinished_run_with_other_settings_is_named(tmp_path):
    old = make_run(tmp_path, 1, step=3, seed=1, optim={"lr": 0.1}, num_workers=2)
    new = make_run(tmp_path, 2, seed=1, optim={"lr": 0.2}, num_workers=0)
    assert choose(tmp_path) == (
        "1/snapshots/snapshot_000003.pt",
        [
            f"remark: {new} is newer and unfinished, without a snapshot; {old} is evaluated. The newer one "
            "has other settings (optim.lr: 0.1, now 0.2)"
        ],
    )


def test_a_newer_unfinished_run_with_the_same_settings_is_named_too(tmp_path):
    make_run(tmp_path, 1, step=3, seed=1)
    make_run(tmp_path, 2, seed=1)
    make_run(tmp_path, 3)
    [second, first] = [note.partition(" is evaluated")[2] for note in choose(tmp_path)[1]]
    assert (first, second) == (", with the same settings", " (settings not recorded)")


def test_many_other_settings_are_cut_short(tmp_path):
    make_run(tmp_path, 1, step=3, **{f"key_{i}": 0 for i in range(7)})
    make_run(tmp_path, 2, **{f"key_{i}": 1 for i in range(7)})
    assert choose(tmp_path)[1][0].endswith("key_4: 0, now 1 and 2 more)")


def test_a_training_with_the_evaluations_folds_is_preferred(tmp_path):
    make_run(tmp_path, 1, step=3, seed=1)  # by an earlier version, which had overlapping folds alone
    make_run(tmp_path, 2, step=3, seed=1, folds="disjoint")
    assert choose(tmp_path, "disjoint") == ("2/snapshots/snapshot_000003.pt", [])
    snapshot, [note] = choose(tmp_path, "overlapping")
    assert snapshot.startswith("1/")
    assert note.endswith("other settings (folds: overlapping, now disjoint)")
    assert "unfinished" not in note


def test_without_one_of_these_folds_the_newest_is_chosen(tmp_path):
    for number in (1, 2):
        make_run(tmp_path, number, step=3, seed=1)
    assert choose(tmp_path, "disjoint") == ("2/snapshots/snapshot_000003.pt", [])


def test_what_the_user_selects_is_taken_and_nothing_is_refused_later(tmp_path):
    make_run(tmp_path, 1, step=3, seed=1)
    make_run(tmp_path, 2, step=3, seed=1)
    assert choose(tmp_path, reload_path=str(tmp_path / "1"))[0].startswith("1/")
    with pytest.raises(UserError, match="holds no trained run; train first"):
        choose(tmp_path / "none")


def test_the_best_snapshot_is_that_of_the_run_that_is_chosen(tmp_path):
    older = make_run(tmp_path, 1, step=3, seed=1)
    (older / "snapshots/best.pt").write_text("")
    make_run(tmp_path, 2, step=3, seed=1, folds="disjoint")
    assert choose(tmp_path, reload_path="best")[0] == "1/snapshots/best.pt"
    with pytest.raises(UserError, match=r"2/snapshots/best\.pt is missing"):
        choose(tmp_path, "disjoint", reload_path="best")


def test_the_training_s_settings_are_read_from_its_run(tmp_path):
    run_dir = make_run(tmp_path, 1, step=3, seed=5)
    assert read_training_config(run_dir / "snapshots/snapshot_000003.pt") == {"seed": 5}
    (tmp_path / "alone.pt").write_text("no snapshot")
    with pytest.raises(UserError, match=r"alone\.pt"):
        read_training_config(tmp_path / "alone.pt")
