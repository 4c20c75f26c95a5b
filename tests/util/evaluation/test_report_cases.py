import json
from dataclasses import replace

import numpy as np
import pytest

from tests.util.evaluation.example_cases import GEOMETRY, add_case, make_cases, make_volume, read_bars
from tests.util.evaluation.example_scores import make_score
from util.errors import UserError
from util.evaluation.report_cases import Cases, add_prior_masks, choose_cases
from util.evaluation.score_files import CASES_NAME, read_cases, write_cases


def test_a_case_holds_the_dice_of_each_slice_that_shows_something():
    cases = Cases()
    add_case(cases, shift=2)
    [case] = cases.cases
    assert [entry.slice_idx for entry in case.slices] == [1, 2, 3, 4]
    assert [entry.support_slice_idx for entry in case.slices] == [1, 1, 4, 4]
    # 6 columns, shifted by 2: 4 overlap.
    assert [entry.dice for entry in case.slices] == [None, 1.0, pytest.approx(4 / 6), None]


def test_a_case_shows_the_largest_section_and_the_most_wrong_slice():
    cases = Cases()
    add_case(cases, shift=2)
    largest, wrong = cases.cases[0].pairs
    assert (largest.title, largest.slice_idx, largest.support_slice_idx) == (
        "largest section of the organ",
        2,
        1,
    )
    assert (wrong.title, wrong.slice_idx, wrong.support_slice_idx) == ("most wrong voxels", 3, 4)
    assert largest.false_positives == largest.false_negatives == ""
    truth = make_volume(5, z=slice(2, 4)).mask[3]
    predicted = np.roll(truth, 2, axis=1)
    np.testing.assert_array_equal(read_bars(wrong.hits), truth & predicted)
    np.testing.assert_array_equal(read_bars(wrong.false_positives), predicted & ~truth)
    np.testing.assert_array_equal(read_bars(wrong.false_negatives), truth & ~predicted)


def test_a_missed_organ_is_shown_once():
    query = make_volume(5, z=slice(2, 4))
    cases, slices = Cases(), np.arange(6)
    options = {"query": query, "support": query, "slices": slices, "support_slices": slices}
    cases.add(make_score(), np.zeros_like(query.mask), **options)
    [pair] = cases.cases[0].pairs
    assert pair.slice_idx == 2
    assert pair.prediction_outline == ""
    assert pair.title == "largest section of the organ, and most wrong voxels"


def test_a_flipped_scan_is_shown_upright():
    volume = make_volume(5, z=slice(2, 4))
    direction = (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)  # columns run to the patient's right
    flipped = replace(
        volume,
        images=volume.images[..., ::-1],
        mask=volume.mask[..., ::-1],
        geometry=replace(GEOMETRY, direction=direction),
    )
    pairs = []
    for query in (volume, flipped):
        cases, slices = Cases(), np.arange(6)
        options = {"query": query, "support": query, "slices": slices, "support_slices": slices}
        cases.add(make_score(), query.mask, **options)
        pairs.append(cases.cases[0].pairs[0])
    assert pairs[0] == pairs[1]


def test_pictures_of_the_same_slice_are_kept_once():
    cases = make_cases([make_score(label=1), make_score(label=2)])
    assert len(cases.cases) == 2
    assert len(cases.images) == 4  # two slices of the query, two of the support


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ((0.3,), [("worst and median and best", 0.3)]),
        ((0.9, 0.3), [("worst and median", 0.3), ("best", 0.9)]),
        ((0.5, 0.9, 0.3, 0.8), [("worst", 0.3), ("median", 0.5), ("best", 0.9)]),
        ((), []),
    ],
)
def test_worst_median_and_best_are_chosen_by_dice(dice, expected):
    cases = make_cases([make_score(query_id=n, dice=value) for n, value in enumerate(dice, start=5)])
    assert [(title, case.score.dice) for title, case in choose_cases(cases.cases)] == expected


def test_prior_masks_are_turned_as_the_slices_are():
    mask = np.random.default_rng(0).random(GEOMETRY.shape[1:]) < 0.3
    [case] = make_cases([make_score()]).cases
    with_priors = add_prior_masks(case, [mask, np.zeros_like(mask)], GEOMETRY)
    first, second = (pair.prior for pair in with_priors.pairs)
    np.testing.assert_array_equal(read_bars(first.fill), mask)
    assert first.area_share == pytest.approx(mask.mean())
    assert (second.fill, second.area_share) == ("", 0)
    flipped = replace(GEOMETRY, direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    turned = add_prior_masks(case, [mask[:, ::-1], mask], flipped).pairs
    assert turned[0].prior == first
    assert with_priors == replace(case, pairs=with_priors.pairs)
    assert case.pairs[0].prior is None


def test_cases_survive_their_file(tmp_path):
    cases = make_cases([make_score(query_id=5), make_score(query_id=6, volume_error_percent=None)])
    mask = np.ones(GEOMETRY.shape[1:], bool)
    cases.cases[0] = add_prior_masks(cases.cases[0], [mask, mask], GEOMETRY)
    write_cases(tmp_path, cases)
    result = read_cases(tmp_path)
    assert json.dumps(result.images) == json.dumps(cases.images)
    write_cases(tmp_path / "again", result)
    assert (tmp_path / "again" / CASES_NAME).read_bytes() == (tmp_path / CASES_NAME).read_bytes()
    assert [case.score for case in result.cases] == [case.score for case in cases.cases]
    assert [[pair.prior for pair in case.pairs] for case in result.cases] == [
        [pair.prior for pair in case.pairs] for case in cases.cases
    ]


def test_cases_without_prior_masks_of_an_earlier_version_are_read(tmp_path):
    write_cases(tmp_path, make_cases([make_score()]))
    content = json.loads((tmp_path / CASES_NAME).read_text())
    for pair in content["cases"][0]["pairs"]:
        del pair["prior"]
    (tmp_path / CASES_NAME).write_text(json.dumps({**content, "format": 1}))
    assert [pair.prior for pair in read_cases(tmp_path).cases[0].pairs] == [None, None]


def test_missing_and_foreign_cases_are_none_and_damaged_ones_refused(tmp_path):
    assert read_cases(tmp_path) is None
    (tmp_path / CASES_NAME).write_text('{"format": 0}')
    assert read_cases(tmp_path) is None
    for text in ("{", "[]", '{"format": 1}', '{"format": 1, "cases": [{}], "images": {}}'):
        (tmp_path / CASES_NAME).write_text(text)
        with pytest.raises(UserError, match=f"{CASES_NAME}: is damaged"):
            read_cases(tmp_path)
