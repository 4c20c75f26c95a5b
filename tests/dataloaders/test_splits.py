"""Folds: the published tables, then properties, small data sets and settings out of range."""

import pytest

from dataloaders.splits import (
    Split,
    describe_split,
    fold_scan_ids,
    split_scans,
)
from util.errors import NothingToDo, UserError

PUBLISHED = {
    20: [(0, 4), (4, 8), (8, 12), (12, 16), (16, 19)],
    30: [(0, 6), (6, 12), (12, 18), (18, 24), (24, 29)],
    35: [(0, 7), (7, 14), (14, 21), (21, 28), (28, 34)],
}


@pytest.mark.parametrize("n_scans", PUBLISHED)
def test_folds_are_the_published_tables(n_scans):
    for fold, (first, last) in enumerate(PUBLISHED[n_scans]):
        expected = list(range(first, last + 1))
        if fold == 4:
            expected = [0, *expected]
        assert fold_scan_ids(range(n_scans), fold) == expected


def test_positions_count_not_ids():
    ids = [39, 1, 2, 3, 5, 8, 10, 13, 15, 19]
    assert fold_scan_ids(ids, 0) == [1, 2, 3]
    assert fold_scan_ids(ids, 4) == [1, 19, 39]
    assert split_scans(ids, ids, 4).training == (2, 3, 5, 8, 10, 13, 15)


@pytest.mark.parametrize(
    ("n_scans", "expected"),
    [
        (5, [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]]),
        (7, [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4, 5, 6]]),
        (9, [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4, 5, 6, 7, 8]]),
    ],
)
def test_few_scans_still_give_five_folds(n_scans, expected):
    assert [fold_scan_ids(range(n_scans), fold) for fold in range(5)] == expected


@pytest.mark.parametrize("n_scans", [5, 6, 11, 20, 23, 30, 35, 64])
def test_every_scan_is_evaluated_and_never_trained_on_in_its_fold(n_scans):
    ids = list(range(100, 100 + n_scans))
    folds = [fold_scan_ids(ids, fold) for fold in range(5)]
    assert sorted(set().union(*folds)) == ids
    for fold, held_out in enumerate(folds):
        assert held_out == sorted(set(held_out))
        assert len(set(held_out) & set(folds[(fold + 1) % 5])) == 1
        training = split_scans(ids, ids, fold).training
        assert training
        assert sorted([*held_out, *training]) == ids


@pytest.mark.parametrize("n_scans", PUBLISHED)
def test_disjoint_folds_are_the_published_ones_without_the_shared_scan(n_scans):
    for fold, (first, last) in enumerate(PUBLISHED[n_scans]):
        expected = list(range(first, last if fold < 4 else last + 1))
        assert fold_scan_ids(range(n_scans), fold, folds="disjoint") == expected


@pytest.mark.parametrize("n_scans", [5, 6, 11, 20, 23, 30, 35, 64])
def test_every_scan_is_in_one_disjoint_fold_and_trains_in_the_others(n_scans):
    ids = list(range(100, 100 + n_scans))
    folds = [fold_scan_ids(ids, fold, folds="disjoint") for fold in range(5)]
    assert sorted(scan_id for fold in folds for scan_id in fold) == ids
    for fold, held_out in enumerate(folds):
        assert sorted([*held_out, *split_scans(ids, ids, fold, folds="disjoint").training]) == ids
        # So a training on overlapping folds never saw a query of the disjoint fold of its number.
        assert set(held_out) <= set(fold_scan_ids(ids, fold))
        split = split_scans([*ids, 1], ids, fold, folds="disjoint")
        assert (list(split.held_out), split.unlabelled) == (held_out, (1,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((range(4), 0), "5 folds need at least 5 scans, got 4"),
        (([], 0), "at least 5 scans, got 0"),
        ((range(20), 5), "eval_fold=5: must be 0 to 4"),
        ((range(20), -1), "eval_fold=-1: must be 0 to 4"),
        (([1, 2, 3, 4, 5, 3], 0), "got 3 more than once"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        fold_scan_ids(*arguments)


@pytest.mark.parametrize("fold", range(5))
def test_folds_count_labelled_scans_and_all_others_train(fold):
    labelled = [2, 3, 5, 7, 11, 13, 17]
    split = split_scans(range(18), labelled, fold)
    assert list(split.held_out) == fold_scan_ids(labelled, fold)
    assert set(split.training) == set(range(18)) - set(split.held_out)
    assert set(split.unlabelled) == set(range(18)) - set(labelled)
    assert list(split.training) == sorted(split.training)
    [line] = describe_split(split)
    assert line.startswith(
        "11 scan(s) without labels, which no fold evaluates: 0, 1, 4, 6, 8, 9, 10, 12, 14, 15 and 1 more"
    )


def test_a_dataset_with_labels_throughout_is_split_as_published():
    split = split_scans(range(20), range(20), 0)
    assert split == Split(tuple(range(5)), tuple(range(5, 20)), ())
    assert describe_split(split) == []


def test_fewer_labelled_scans_than_folds_hold_none_out_and_train_once():
    split = split_scans(range(10), [4], 0)
    assert split == Split((), tuple(range(10)), (0, 1, 2, 3, 5, 6, 7, 8, 9))
    [line] = describe_split(split)
    assert line.endswith("scans train: fewer than 5 have labels, which only evaluation needs")
    with pytest.raises(
        NothingToDo, match="eval_fold=1: 1 labelled scans make no folds; eval_fold=0 trains on all"
    ):
        split_scans(range(10), [4], 1)


@pytest.mark.parametrize(("labelled", "message"), [(range(4), "need at least 5 scans, got 4"), ([], "got 0")])
def test_too_few_scans_are_refused_if_none_is_without_labels(labelled, message):
    with pytest.raises(UserError, match=rf"^here: 5 folds .*{message}"):
        split_scans(labelled, labelled, 0, source="here")
