"""What is said where a snapshot was trained for something else."""

from util.mismatches import find_mismatches

TRAINED = {"dataset": "SABS", "eval_fold": 1, "setting": 1, "n_steps": 3}


def test_equal_settings_give_no_line():
    assert find_mismatches(TRAINED, {"dataset": "SABS", "eval_fold": 1, "setting": 1}) == []


def test_each_other_setting_has_a_line():
    assert find_mismatches(TRAINED, {"dataset": "CMR", "eval_fold": 2, "setting": 1}) == [
        "warning: the snapshot was trained with dataset=SABS, not CMR",
        "warning: the snapshot was trained with eval_fold=1, not 2",
    ]


def test_a_setting_that_the_snapshot_lacks_counts_as_none():
    assert find_mismatches({}, {"setting": 2}) == [
        "warning: the snapshot was trained with setting=None, not 2"
    ]
    assert find_mismatches({}, {"exclude_label": None}) == []


def test_another_fold_of_the_same_training_is_called_too_good():
    [line] = find_mismatches(TRAINED, {"dataset": "SABS", "eval_fold": 0})
    assert line == (
        "warning: the snapshot was trained with eval_fold=1, not 0; "
        "its training saw these scans, so these scores are too good"
    )
    [other] = find_mismatches(TRAINED, {"dataset": "CMR", "eval_fold": 1})
    assert "too good" not in other
