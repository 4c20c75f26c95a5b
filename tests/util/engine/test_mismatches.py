"""What is said where a snapshot was trained for something else."""

from util.engine.mismatches import find_mismatches
from util.engine.snapshots import Snapshot

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
