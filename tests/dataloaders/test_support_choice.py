"""The support of each organ: its candidates, its position, and the nearest scan that shows the organ."""

import pytest

from dataloaders.splits import fold_scan_ids, split_scans
from dataloaders.support_choice import (
    choose_support_position,
    choose_supports,
    describe_supports,
    list_candidates,
)
from util.errors import UserError
from util.remarks import Remark

ORGANS = {1: "liver", 4: "spleen"}


def choose(slices_of, position, n_slices=3):
    """Choose among scans given as id -> {label: number of slices}; also return which were loaded."""
    loaded = []

    def load(scan_id):
        loaded.append(scan_id)
        return scan_id

    supports, lines = choose_supports(
        list(slices_of),
        ORGANS,
        position=position,
        n_slices=n_slices,
        load=load,
        count_slices=lambda scan_id, label: slices_of[scan_id].get(label, 0),
    )
    return supports, lines, loaded


def test_the_wanted_scan_serves_the_organs_that_it_shows_and_no_other_is_looked_at():
    scans = {10: {1: 9, 4: 9}, 11: {1: 9, 4: 9}, 12: {1: 3, 4: 3}}
    assert choose(scans, 2) == ({1: 12, 4: 12}, [], [12])


def test_the_nearest_scan_that_shows_the_organ_takes_its_place_for_this_organ_alone():
    scans = {10: {1: 9, 4: 9}, 11: {1: 9, 4: 2}, 12: {1: 9, 4: 2}, 13: {1: 9}, 14: {1: 9, 4: 9}}
    supports, lines, loaded = choose(scans, 3)
    assert supports == {1: 13, 4: 14}
    assert lines == [
        "spleen: the support is scan 14 (position 4), because scan 13 (position 3) shows it in 0 slices, "
        "fewer than 3"
    ]
    assert loaded == [13, 12, 14]


def test_of_two_equally_near_scans_the_lower_position_serves():
    scans = {10: {1: 9, 4: 9}, 11: {1: 9}, 12: {1: 9, 4: 9}}
    assert choose(scans, 1)[0] == {1: 11, 4: 10}


def test_an_organ_that_no_candidate_shows_is_skipped_with_one_line():
    supports, lines, _ = choose({10: {1: 9, 4: 2}, 11: {1: 9}}, 0)
    assert supports == {1: 10}
    assert lines == [
        "spleen: skipped in this fold, as no scan that may be its support shows it in at least 3 slices"
    ]
    assert choose({10: {1: 9, 4: 2}, 11: {1: 9}}, 0, n_slices=2)[:2] == ({1: 10, 4: 10}, [])


def test_supports_are_named_with_their_organs():
    assert describe_supports({"liver": 2, "spleen": 3, "kidney": 2}) == (
        "support scans: 2 for liver, kidney; 3 for spleen"
    )


@pytest.mark.parametrize(
    ("folds", "fold", "first"),
    [
        ("disjoint", 0, [4, 5, 6]),
        ("disjoint", 2, [12, 13, 14]),
        ("disjoint", 4, [0, 1, 2]),
        ("overlapping", 0, [5, 6, 7]),
        ("overlapping", 4, [1, 2, 3]),
    ],
)
def test_supports_outside_the_fold_are_counted_from_its_end(folds, fold, first):
    split = split_scans(range(20), range(20), fold, folds=folds)
    candidates = list_candidates(split, "outside")
    assert list(candidates[:3]) == first
    assert sorted([*candidates, *split.held_out]) == list(range(20))


def test_scans_without_labels_are_no_supports():
    split = split_scans(range(12), range(0, 12, 2), 0)
    assert list_candidates(split, "fold") == tuple(fold_scan_ids(range(0, 12, 2), 0)) == (0, 2)
    assert list_candidates(split, "outside") == (4, 6, 8, 10)


@pytest.mark.parametrize(
    ("supp_idx", "n_scans", "position"), [(2, 5, 2), (2, 3, 2), (0, 2, 0), (1, 2, 1), (4, 5, 4)]
)
@pytest.mark.filterwarnings("error")
def test_the_support_is_the_scan_at_its_position(supp_idx, n_scans, position):
    assert choose_support_position(supp_idx, n_scans) == position


def test_the_default_support_is_the_last_one_of_a_smaller_fold():
    with pytest.warns(Remark, match="supp_idx=2: the fold holds 2 scans, the last one is the support"):
        assert choose_support_position(2, 2) == 1


@pytest.mark.parametrize("n_scans", range(5, 10))
@pytest.mark.filterwarnings("ignore::util.remarks.Remark")
def test_every_fold_of_five_to_nine_scans_has_the_default_support(n_scans):
    for fold in range(5):
        held_out = fold_scan_ids(range(n_scans), fold)
        assert 0 <= choose_support_position(2, len(held_out)) < len(held_out)


@pytest.mark.parametrize(("supp_idx", "n_scans"), [(3, 3), (5, 5), (4, 2)])
def test_a_position_that_the_fold_lacks_is_refused(supp_idx, n_scans):
    with pytest.raises(
        UserError, match=f"supp_idx={supp_idx}: the fold holds {n_scans} scans, counted from 0"
    ):
        choose_support_position(supp_idx, n_scans)


def test_a_position_that_the_data_outside_the_fold_lack_is_refused():
    with pytest.raises(UserError, match="supp_idx=9: the data outside the fold hold 4 scans, counted"):
        choose_support_position(9, 4, support_scans="outside")
