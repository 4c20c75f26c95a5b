"""Folds: the published tables, then properties, small data sets and settings out of range."""

import pytest

from dataloaders.folds import fold_scan_ids, training_scan_ids
from util.errors import UserError

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
    assert training_scan_ids(ids, 4) == [2, 3, 5, 8, 10, 13, 15]


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
        assert sorted(held_out + training_scan_ids(ids, fold)) == ids


def test_other_numbers_of_folds_share_scans_alike():
    assert [fold_scan_ids(range(6), fold, 3) for fold in range(3)] == [[0, 1, 2], [2, 3, 4], [0, 4, 5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((range(4), 0), "5 folds need at least 5 scans, got 4"),
        (([], 0), "at least 5 scans, got 0"),
        ((range(20), 5), "eval_fold=5: must be 0 to 4"),
        ((range(20), -1), "eval_fold=-1: must be 0 to 4"),
        ((range(20), 0, 1), "n_folds=1: must be at least 2"),
        (([1, 2, 3, 4, 5, 3], 0), "got 3 more than once"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        fold_scan_ids(*arguments)


def test_a_fold_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(UserError, match="eval_fold=1: leaves none of 3 scans"):
        training_scan_ids(range(3), 1, 2)
