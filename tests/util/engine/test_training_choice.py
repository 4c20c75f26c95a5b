"""Which training is evaluated, and what is said of newer ones and of trainings for something else."""

import json

import pytest

from util.engine.snapshots import Snapshot
from util.engine.training_choice import choose_training, find_mismatches, read_training_config
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


TRAINED = {"dataset": "SABS", "eval_fold": 1, "setting": 1, "n_steps": 3}


def _trained(config=TRAINED, training_ids=None):
    return Snapshot(step=3, weights={}, config=config, versions={}, training_ids=training_ids)


def test_equal_settings_give_no_warning():
    assert find_mismatches(_trained(), {"dataset": "SABS", "eval_fold": 1, "setting": 1}) == []


def test_each_differing_setting_has_a_warning():
    assert find_mismatches(_trained(), {"dataset": "CMR", "eval_fold": 2, "setting": 1}) == [
        "warning: the snapshot was trained with dataset=SABS, not CMR",
        "warning: the snapshot was trained with eval_fold=1, not 2",
    ]


def test_a_setting_that_the_snapshot_lacks_counts_as_none():
    assert find_mismatches(_trained({}), {"setting": 2}) == [
        "warning: the snapshot was trained with setting=None, not 2"
    ]
    assert find_mismatches(_trained({}), {"exclude_label": None}) == []


def test_evaluating_another_fold_of_the_training_is_warned_about():
    [line] = find_mismatches(_trained(), {"dataset": "SABS", "eval_fold": 0})
    assert line == (
        "warning: the snapshot was trained with eval_fold=1, not 0; "
        "its training included these scans, so scores are too high"
    )
    [other] = find_mismatches(_trained(), {"dataset": "CMR", "eval_fold": 1})
    assert "too high" not in other


def test_training_scans_in_the_evaluated_fold_are_named():
    requested = {"dataset": "SABS", "eval_fold": 1}
    snapshot = _trained(training_ids=[0, 1, 2, 7])
    assert find_mismatches(snapshot, requested, [3, 4]) == []
    assert find_mismatches(snapshot, requested, [2, 1, 3]) == [
        "warning: the snapshot was trained on scan(s) 1, 2 of this fold, so scores are too high"
    ]


def test_another_fold_without_training_scans_is_not_called_too_high():
    [line] = find_mismatches(_trained(training_ids=[0, 1]), {"dataset": "SABS", "eval_fold": 2}, [5, 6])
    assert line == "warning: the snapshot was trained with eval_fold=1, not 2"


def test_the_scans_of_another_dataset_have_the_same_ids_by_chance():
    [line] = find_mismatches(_trained(training_ids=[0, 1]), {"dataset": "CMR", "eval_fold": 1}, [0, 1])
    assert line == "warning: the snapshot was trained with dataset=SABS, not CMR"


def test_other_folds_are_noted_and_warned_about_only_if_queries_trained():
    requested = {**TRAINED, "folds": "disjoint"}
    [line] = find_mismatches(_trained(training_ids=[0, 1]), requested, [2, 3])
    assert line == (
        "remark: the snapshot was trained with folds=overlapping, not disjoint; none of its training scans "
        "is a query"
    )
    lines = find_mismatches(_trained(training_ids=[0, 3]), requested, [2, 3])
    assert lines == [
        "warning: the snapshot was trained with folds=overlapping, not disjoint",
        "warning: the snapshot was trained on scan(s) 3 of this fold, so scores are too high",
    ]


def test_queries_whose_labels_the_network_was_adapted_to_are_named():
    snapshot = _trained({**TRAINED, "adapted_to": {"scans": [{"scan_id": 3}]}})
    requested = {"dataset": "SABS", "eval_fold": 1}
    assert find_mismatches(snapshot, requested, [3, 4], supports={"liver": 3, "spleen": 3}) == []
    assert find_mismatches(snapshot, requested, [4, 5], supports={"liver": 4}) == []
    for supports in ({"liver": 4}, {"liver": 3, "spleen": 4}):
        [line] = find_mismatches(snapshot, requested, [3, 4], supports=supports)
        assert line.startswith(
            "warning: the snapshot was adapted to scan(s) 3 with their labels, which are queries"
        )
