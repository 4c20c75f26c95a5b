"""Means and tables of volume scores, by hand and re-read."""

import csv
import json
import math
import re
from dataclasses import replace

import pytest

from tests.util.evaluation.example_scores import make_absent
from tests.util.evaluation.example_scores import make_score as _score
from util.errors import UserError
from util.evaluation.report import (
    describe_scores,
    format_table,
    method_table,
    metric_table,
    organ_means,
    overall_mean,
    select,
    summarise_scores,
    support_spread,
    volume_table,
)
from util.evaluation.score_files import read_scores, write_scores
from util.evaluation.statistics import estimate

# Two folds; query 3 has no spleen, and fold 1 has a single liver.
SCORES = [
    _score(3, 1, 0.2),
    _score(5, 1, 0.4),
    _score(5, 4, 0.9),
    _score(8, 1, 0.7, fold=1, support_id=6),
    _score(8, 4, 0.1, fold=1, support_id=6),
]


def test_an_organs_mean_is_over_volumes_then_folds():
    # Liver: fold 0 (0.2 + 0.4) / 2 = 0.3, fold 1 0.7; not (0.2 + 0.4 + 0.7) / 3. Spleen: 0.9 and 0.1.
    assert organ_means(SCORES) == pytest.approx({"liver": 0.5, "spleen": 0.5})
    assert organ_means(SCORES, "iou") == pytest.approx({"liver": 0.25, "spleen": 0.25})


def test_the_overall_mean_is_over_volumes_then_organs_then_folds():
    # Fold 0: liver 0.3 and spleen 0.9, so 0.6; fold 1: 0.4. The mean over all five volumes would be 0.46.
    assert overall_mean(SCORES) == pytest.approx(0.5)
    assert overall_mean(select(SCORES, fold=0)) == pytest.approx(0.6)
    assert overall_mean(SCORES, "iou") == pytest.approx(0.25)


def test_a_fold_without_an_organ_weighs_as_much_as_the_others():
    # Fold 0: (0.3 + 0.9) / 2 = 0.6, fold 1: its one organ 0.7.
    scores = [score for score in SCORES if not (score.fold == 1 and score.label == 4)]
    assert overall_mean(scores) == pytest.approx(0.65)


def test_organs_are_in_order_of_label():
    scores = [_score(1, 4, 0.5), _score(1, 1, 0.5), _score(1, 2, 0.5)]
    assert list(organ_means(scores)) == ["liver", "right kidney", "spleen"]


def test_no_scores_have_no_mean():
    assert organ_means([]) == {}
    assert math.isnan(overall_mean([]))


def test_scores_are_selected_by_their_attributes():
    assert select(SCORES, fold=0, label=4) == [SCORES[2]]
    assert select(SCORES) == SCORES
    assert select(SCORES, method="untrained") == []


def test_tables_are_aligned():
    assert format_table(["a", "long name"], [["1.5", "x"], ["", "yy"]]) == (
        "a    long name\n---  ---------\n1.5  x\n     yy"
    )


def test_the_volume_table_shows_each_query_absent_organs_and_means():
    rows = [line.split("  ") for line in volume_table(SCORES).splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert rows[0] == ["fold", "query", "liver", "spleen", "mean"]
    assert rows[2:] == [
        ["0", "3", "0.200 / 0.100", "absent", "0.200 / 0.100"],
        ["0", "5", "0.400 / 0.200", "0.900 / 0.450", "0.650 / 0.325"],
        ["1", "8", "0.700 / 0.350", "0.100 / 0.050", "0.400 / 0.200"],
        ["mean", "0.500 / 0.250", "0.500 / 0.250", "0.500 / 0.250"],
    ]


def test_the_volume_table_orders_queries_by_number():
    table = volume_table([_score(10, 1, 0.5), _score(9, 1, 0.5)])
    assert [line.split()[1] for line in table.splitlines()[2:4]] == ["9", "10"]


def test_the_method_table_has_a_row_per_protocol_and_method():
    scores = [
        *SCORES,
        *(replace(score, protocol="all_slices", dice=0.25) for score in SCORES),
        _score(5, 1, 0.125, method="copied support mask"),
    ]
    rows = [line.split("  ") for line in method_table(scores).splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert rows[0] == ["slices", "Dice of", "liver", "spleen", "mean", "scans", "folds"]
    assert rows[2:] == [
        ["chunks", "trained", "0.500", "0.500", "0.500", "3", "2"],
        ["chunks", "copied support mask", "0.125", "-", "0.125", "1", "1"],
        ["all_slices", "trained", "0.250", "0.250", "0.250", "3", "2"],
    ]


def test_an_organ_that_a_fold_was_not_scored_for_is_not_absent():
    scores = [*SCORES[:3], _score(8, 1, 0.7, fold=1, support_id=6)]
    rows = [line.split() for line in volume_table(scores).splitlines()]
    assert rows[2][5] == "absent"  # fold 0 was scored for the spleen
    assert rows[4] == ["1", "8", "0.700", "/", "0.350", "-", "0.700", "/", "0.350"]


def test_a_query_without_the_organ_enters_no_mean_and_is_absent():
    scores = [*SCORES, make_absent(3, 4), make_absent(9, 4, is_false=True)]
    assert organ_means(scores) == organ_means(SCORES)
    assert overall_mean(scores) == overall_mean(SCORES)
    assert method_table(scores) == method_table(SCORES)
    assert "absent" in next(line for line in volume_table(scores).splitlines() if line.startswith("0     9"))


def test_the_metric_table_names_tolerance_and_counts():
    scores = [*SCORES, make_absent(9, 4, is_false=True), _score(9, 1, 0.0, is_missed=True)]
    rows = [re.split(r" {2,}", line.strip()) for line in metric_table(scores).splitlines()]
    assert "NSD at 3 mm" in rows[0]
    liver = dict(zip(rows[0], rows[2], strict=True))
    estimated = estimate(scores, "dice")["liver"]
    assert liver["Dice"] == f"{estimated.mean:.3f} [{estimated.low:.3f}, {estimated.high:.3f}]"
    assert liver["SD of folds"] == f"{estimated.fold_sd:.3f}"
    assert liver["HD95 (mm)"] == f"{10 * (1 - (0.2 + 0.4 + 0.7 + 0.0) / 4):.1f}"
    assert [liver[name] for name in ("missed", "false", "scans", "folds")] == ["1", "0", "4", "2"]
    assert [row[-4:] for row in rows[3:]] == [["0", "1", "2", "2"], ["1", "1", "4", "2"]]


def test_a_network_that_hits_nothing_is_reported_first_and_without_tables_of_zeros():
    scores = [replace(score, dice=0.0) for score in SCORES]
    others = [replace(score, method="copied support mask") for score in SCORES]
    described = describe_scores([*scores, *others])
    assert described.splitlines()[0].startswith("warning: Dice is 0 in every query")
    assert "per query volume" not in described
    assert "copied support mask" in described
    assert "warning" not in describe_scores(SCORES)


def test_supports_that_lack_an_organ_do_not_enter_the_mean_over_supports():
    others = [_score(2, 1, 0.9, support_id=3, main_support=False)]
    scores = [_score(3, 1, 0.2), _score(5, 4, 0.4), *others]
    spread, _, _, *rows = support_spread(scores).splitlines()
    assert spread == "mean 0.300, standard deviation 0.000 over 1 supports, 1 that lack an organ left out"
    assert rows[1].split() == ["0", "3", "0.900", "no", "spleen"]
    alone = support_spread([_score(3, 1, 0.2), _score(3, 4, 0.2, support_id=3)])
    assert alone.startswith("no mean, no support serves all organs")


def test_the_spread_over_supports_is_that_of_their_means():
    scores = [
        _score(3, 1, 0.2),
        _score(5, 1, 0.4),
        _score(2, 1, 0.9, support_id=3, main_support=False),
        _score(5, 1, 0.7, support_id=3, main_support=False),
    ]
    # Supports 2 and 3 have the means 0.3 and 0.8: mean 0.55, each 0.25 away from it.
    spread, _, _, *rows = support_spread(scores).splitlines()
    assert spread == "mean 0.550, standard deviation 0.250 over 2 supports"
    assert [row.split() for row in rows] == [["0", "2", "0.300"], ["0", "3", "0.800"]]


def test_the_same_scan_supporting_in_two_folds_counts_twice():
    scores = [_score(5, 1, 0.2, support_id=4), _score(5, 1, 0.6, support_id=4, fold=1)]
    assert "mean 0.400, standard deviation 0.200 over 2 supports" in support_spread(scores)


def test_the_description_keeps_other_supports_and_methods_out_of_the_main_table():
    others = [
        _score(5, 1, 0.99, support_id=3, main_support=False),
        _score(5, 1, 0.01, method="untrained"),
    ]
    described = describe_scores(SCORES + others)
    assert volume_table(SCORES) + "\n" in described
    assert "every scan as support, mean Dice: " in described
    assert "all_slices" not in described
    assert "untrained" in described.split("mean Dice by method")[1]


def test_the_description_leaves_out_what_was_not_evaluated():
    described = describe_scores(SCORES)
    assert "every scan as support" not in described
    assert "all_slices" not in describe_scores(SCORES)
    assert "slices that hold the organ" in described


def test_the_summary_holds_the_main_supports_means():
    scores = [
        *SCORES,
        _score(5, 1, 0.99, support_id=3, main_support=False),
        _score(5, 1, 0.01, method="untrained"),
    ]
    means = summarise_scores(scores)["means"]
    assert list(means) == ["trained", "untrained"]
    assert means["trained"]["chunks"]["dice"]["mean"] == pytest.approx(0.5)
    assert means["trained"]["chunks"]["iou"]["organs"] == pytest.approx({"liver": 0.25, "spleen": 0.25})
    untrained = means["untrained"]["chunks"]["dice"]
    assert (untrained["mean"], untrained["organs"]) == (0.01, {"liver": 0.01})
    assert untrained["scans"]["liver"]["mean"] == 0.01
    assert means["trained"]["chunks"]["dice"]["scans"]["mean"]["n_scans"] == 3
    assert (means["trained"]["chunks"]["n_missed"], means["trained"]["chunks"]["n_false"]) == (0, 0)


def test_scores_survive_writing_and_reading(tmp_path):
    scores = [*SCORES, _score(5, 1, 1 / 3, main_support=False)]
    write_scores(tmp_path / "run", scores, {"left_out": ["spleen: left out 1"]})
    assert read_scores(tmp_path / "run" / "scores.json") == scores
    content = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert content["summary"] == {"left_out": ["spleen: left out 1"]}


def test_the_csv_file_holds_a_line_per_score(tmp_path):
    scores = [*SCORES, _score(5, 1, 1 / 3, organ='liver, "left"', main_support=False)]
    write_scores(tmp_path, scores, {})
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(scores)
    assert rows[2]["organ"] == "spleen"
    assert (float(rows[2]["dice"]), rows[2]["main_support"]) == (0.9, "True")
    assert float(rows[-1]["dice"]) == 1 / 3  # not rounded
    assert rows[-1]["organ"] == 'liver, "left"'
    assert list(rows[0]) == list(vars(SCORES[0]))


def test_scores_of_another_version_are_refused(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps({"summary": {}, "scores": [{"dice": 1}]}))
    with pytest.raises(
        UserError, match=r"scores\.json: was written by another version, .* evaluate the fold"
    ):
        read_scores(tmp_path / "scores.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"scores": [{"dice": 1}]}', '{"scores": 5}'])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(
        UserError, match=r"scores\.json: is damaged \(.+\); evaluate the fold again"
    ) as caught:
        read_scores(tmp_path / "scores.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"scores\.json: is damaged"):
        read_scores(tmp_path / "scores.json")
