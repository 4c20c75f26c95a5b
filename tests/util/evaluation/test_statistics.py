"""Intervals and paired tests, by hand, against a plain bootstrap and against SciPy on known data."""

import numpy as np
import pytest
from scipy import stats

from tests.util.evaluation.example_scores import make_absent, make_score
from util.evaluation.statistics import (
    N_RESAMPLES,
    bootstrap_interval,
    compare_scans,
    estimate,
    holm_correction,
    mean_of_organ_means,
    rank_biserial,
    scan_means,
    signed_rank_p,
    tabulate_scans,
)

# Scan 4 is in both folds.
SCORES = [
    make_score(3, 1, 0.2),
    make_score(4, 1, 0.4),
    make_score(4, 4, 0.9),
    make_score(4, 1, 0.6, fold=1),
    make_score(8, 1, 0.8, fold=1),
    make_score(8, 4, 0.1, fold=1),
]


def _scores(values, label=1, **changes):
    return [make_score(scan_id, label, value, **changes) for scan_id, value in enumerate(values)]


def test_a_scan_that_two_folds_share_counts_once_averaged():
    table = tabulate_scans(SCORES, "dice")
    assert table.scan_ids == (3, 4, 8)
    assert table.organs == {1: "liver", 4: "spleen"}
    np.testing.assert_allclose(table.values, [[0.2, np.nan], [0.5, 0.9], [0.8, 0.1]])


def test_means_are_over_distinct_scans_and_the_spread_over_folds_stands_beside():
    result = estimate(SCORES, "dice")
    assert list(result) == ["liver", "spleen", "mean"]
    liver = result["liver"]
    assert liver.mean == pytest.approx(0.5)  # (0.2 + 0.5 + 0.8) / 3; over rows also 0.5, over folds too
    assert (liver.n_scans, liver.n_folds) == (3, 2)
    assert liver.fold_sd == pytest.approx(np.std([0.3, 0.7], ddof=1))
    assert result["spleen"].mean == pytest.approx(0.5)
    assert result["mean"].mean == pytest.approx(0.5)
    # Fold 0: liver 0.3, spleen 0.9; fold 1: liver 0.7, spleen 0.1.
    assert result["mean"].fold_sd == pytest.approx(np.std([0.6, 0.4], ddof=1))


def test_means_without_intervals_are_those_of_the_estimates():
    means = scan_means(tabulate_scans(SCORES, "dice"))
    assert means == pytest.approx({organ: result.mean for organ, result in estimate(SCORES, "dice").items()})


def test_a_shared_scan_does_not_weigh_twice():
    scores = [*_scores([0.0, 1.0]), make_score(1, 1, 1.0, fold=1)]
    assert estimate(scores, "dice")["liver"].mean == pytest.approx(0.5)


def test_one_scan_or_fold_has_no_interval_or_spread():
    result = estimate([make_score(3, 1, 0.2)], "dice")["liver"]
    assert (result.mean, result.low, result.high, result.fold_sd) == (0.2, None, None, None)
    assert estimate([], "dice") == {}


def test_queries_without_the_organ_enter_no_mean():
    scores = [*_scores([0.2, 0.4]), make_absent(2, 1), make_absent(3, 1, is_false=True)]
    assert estimate(scores, "dice") == estimate(scores[:2], "dice")
    assert estimate(scores, "volume_error_percent")["liver"].mean == pytest.approx(20 * 0.7)


def test_intervals_are_those_of_a_plain_bootstrap():
    rng = np.random.default_rng(7)
    values = rng.random(12)
    result = estimate(_scores(values), "dice")["liver"]
    other = np.random.default_rng(99)
    means = [np.mean(other.choice(values, len(values))) for _ in range(N_RESAMPLES)]
    assert (result.low, result.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.006)
    spread = 1.96 * values.std() / np.sqrt(len(values))
    assert result.high - result.low == pytest.approx(2 * spread, rel=0.06)


def test_the_overall_interval_resamples_whole_scans_even_if_they_lack_organs():
    rng = np.random.default_rng(3)
    values = rng.random((10, 2))
    values[[2, 5], 1] = np.nan
    scores = [
        make_score(scan_id, label, values[scan_id, column])
        for scan_id in range(10)
        for column, label in enumerate((1, 4))
        if np.isfinite(values[scan_id, column])
    ]
    result = estimate(scores, "dice")["mean"]
    assert result.mean == pytest.approx((values[:, 0].mean() + np.nanmean(values[:, 1])) / 2)
    other = np.random.default_rng(5)
    means = []
    for _ in range(4000):
        drawn = values[other.integers(0, 10, 10)]
        means.append(np.mean([np.nanmean(drawn[:, 0]), np.nanmean(drawn[:, 1])]))
    assert (result.low, result.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_intervals_repeat_and_equal_values_have_none_but_the_value():
    values = np.random.default_rng(0).random((8, 1))
    first, second = (bootstrap_interval(values) for _ in range(2))
    assert first == second
    low, high = bootstrap_interval(np.full((5, 1), 0.25))
    assert (low, high) == pytest.approx((0.25, 0.25))


def test_organ_means_leave_out_what_is_missing():
    values = np.array([[1.0, np.nan], [3.0, 5.0]])
    assert mean_of_organ_means(values) == pytest.approx((2 + 5) / 2)
    assert mean_of_organ_means(np.stack([values, values + 1])) == pytest.approx([3.5, 4.5])


def test_wilcoxons_test_is_scipys_on_known_data():
    # Textbook data (Wilcoxon 1945, Darwin's maize): 15 differences, W = 24, p = 0.041.
    differences = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]) / 100
    assert stats.wilcoxon(differences).statistic == 24
    result = compare_scans(
        tabulate_scans(_scores(np.full(15, 0.0)), "dice"), tabulate_scans(_scores(differences), "dice")
    )["liver"]
    assert result.p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert result.p == pytest.approx(0.0413, abs=2e-4)
    assert result.difference == pytest.approx(differences.mean())
    assert result.rank_biserial == pytest.approx((96 - 24) / 120)


def test_five_pairs_cannot_reach_significance_and_six_can():
    assert signed_rank_p(np.arange(1, 6) / 10) == pytest.approx(2 / 2**5)
    assert signed_rank_p(np.arange(1, 7) / 10) == pytest.approx(2 / 2**6)


def test_no_difference_has_no_effect():
    assert (signed_rank_p(np.zeros(7)), rank_biserial(np.zeros(7))) == (1, 0)
    assert rank_biserial(np.array([0.1, 0.3])) == 1
    assert rank_biserial(np.array([-0.1, 0.0, -0.3])) == -1
    # Ranks 1, 2, 3: (1 + 3 - 2) / 6.
    assert rank_biserial(np.array([0.1, -0.2, 0.3])) == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([0.005, 0.011, 0.02, 0.04], [0.02, 0.033, 0.04, 0.04]),
        ([], []),
    ],
)
def test_holms_correction_is_that_by_hand(p_values, corrected):
    assert holm_correction(p_values) == pytest.approx(corrected)


def test_a_comparison_is_over_the_scans_and_organs_that_both_have():
    first = tabulate_scans([*_scores([0.1, 0.2, 0.3]), make_score(0, 4, 0.5)], "dice")
    second = tabulate_scans([*_scores([0.2, 0.4]), make_score(1, 2, 0.5)], "dice")
    result = compare_scans(first, second)
    assert list(result) == ["liver", "mean"]
    assert result["liver"].n_scans == 2
    assert result["liver"].difference == pytest.approx(0.15)


def test_the_comparison_of_means_pairs_scans_and_stays_outside_of_holms_correction():
    first = [*_scores([0.1, 0.2, 0.3]), *_scores([0.5, 0.5, 0.5], label=4)]
    second = [*_scores([0.2, 0.2, 0.6]), *_scores([0.5, 0.3, 0.7], label=4)]
    result = compare_scans(*(tabulate_scans(scores, "dice") for scores in (first, second)))
    # Scans: (0.1 + 0) / 2, (0 - 0.2) / 2, (0.3 + 0.2) / 2.
    assert result["mean"].difference == pytest.approx((0.05 - 0.1 + 0.25) / 3)
    assert result["mean"].p_holm is None
    assert result["liver"].p_holm == pytest.approx(min(1, 2 * result["liver"].p))
