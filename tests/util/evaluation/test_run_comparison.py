"""Comparisons of whole runs: their numbers, their files, and every refusal."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from tests.util.evaluation.example_scores import make_score
from util.errors import UserError
from util.evaluation.run_comparison import compare_main
from util.evaluation.score_files import write_scores

CONFIG = {"dataset": "CHAOST2", "n_part": 3, "supp_idx": 2, "test_label": [1, 4], "n_steps": 3}
DICE = np.random.default_rng(0).uniform(0.3, 0.6, (8, 2))
GAIN = np.random.default_rng(1).uniform(-0.02, 0.2, (8, 2))


def write_run(folder, dice, *, config=(), data="abc", extra=(), n_scans=8, **changes):
    scores = [
        make_score(scan_id, label, dice[scan_id, column], **changes)
        for scan_id in range(n_scans)
        for column, label in enumerate((1, 4))
    ]
    write_scores(folder, [*scores, *extra], {"config": {**CONFIG, **dict(config)}, "data_fingerprint": data})
    return str(folder)


@pytest.fixture(name="runs")
def _runs(tmp_path):
    return write_run(tmp_path / "a", DICE), write_run(tmp_path / "b", DICE + GAIN)


def read_rows(folder):
    with (folder / "compare.csv").open(newline="") as file:
        return {(row["second"], row["metric"], row["organ"]): row for row in csv.DictReader(file)}


def test_differences_and_tests_are_those_of_plain_code(runs, tmp_path, capsys):
    compare_main(runs)
    rows = read_rows(tmp_path / "a")
    p_values = [stats.wilcoxon(GAIN[:, column]).pvalue for column in (0, 1)]
    for column, organ in enumerate(("liver", "spleen")):
        row = rows[runs[1], "dice", organ]
        assert float(row["first_mean"]) == pytest.approx(DICE[:, column].mean())
        assert float(row["difference"]) == pytest.approx(GAIN[:, column].mean())
        assert float(row["p"]) == pytest.approx(p_values[column])
        is_smaller = p_values[column] == min(p_values)
        assert float(row["p_holm"]) == pytest.approx(
            2 * min(p_values) if is_smaller else max(p_values[column], 2 * min(p_values))
        )
        assert float(row["low"]) < GAIN[:, column].mean() < float(row["high"])
    assert float(rows[runs[1], "hd95_mm", "liver"]["difference"]) == pytest.approx(-10 * GAIN[:, 0].mean())
    out = capsys.readouterr().out
    assert f"Dice, chunks: difference from {runs[0]}" in out
    assert "NSD at 3 mm" in out
    assert "warning" not in out


def test_all_files_are_written_to_the_out_folder(runs, tmp_path):
    compare_main([*runs, f"out={tmp_path}/out"])
    assert not (tmp_path / "a/compare.csv").exists()
    content = json.loads((tmp_path / "out/compare.json").read_text())
    assert list(content["runs"]) == list(runs)
    assert content["runs"][runs[1]]["method"] == "trained"
    assert len(content["comparisons"]) == len(read_rows(tmp_path / "out"))
    assert (tmp_path / "out/compare.md").read_text().count("**Dice, chunks") == 1
    assert r"\textbf{" in (tmp_path / "out/compare.tex").read_text()


def test_several_runs_are_each_compared_with_the_first(runs, tmp_path, capsys):
    third = write_run(tmp_path / "c", DICE)
    compare_main([*runs, third])
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [f"warning: {third}: equals {runs[0]} in every score; is it the same run?"]
    rows = read_rows(tmp_path / "a")
    assert {second for second, _, _ in rows} == {runs[1], third}
    equal = rows[third, "dice", "liver"]
    assert [float(equal[name]) for name in ("difference", "p", "rank_biserial")] == [0, 1, 0]


def test_whole_cross_validations_and_methods_of_one_run_are_compared(tmp_path, capsys):
    for name, gain in (("a", 0.0), ("b", 0.1)):
        for fold in (0, 1):
            options = {"fold": fold, "method": "registration"}
            others = [make_score(i, label, 0.2, **options) for i in range(8) for label in (1, 4)]
            write_run(tmp_path / f"{name}/fold_{fold}/evaluation/1", DICE + gain, fold=fold, extra=others)
    compare_main([f"{tmp_path}/a", f"{tmp_path}/b/"])
    row = read_rows(tmp_path / "a")[f"{tmp_path}/b", "dice", "mean"]
    assert float(row["difference"]) == pytest.approx(0.1)
    assert row["n_scans"] == "8"
    compare_main([f"{tmp_path}/a@registration", f"{tmp_path}/a"])
    row = read_rows(tmp_path / "a")[f"{tmp_path}/a", "dice", "liver"]
    assert float(row["difference"]) == pytest.approx((DICE[:, 0] - 0.2).mean())
    assert "registration" in capsys.readouterr().out


def test_too_few_scans_are_warned_of(tmp_path, capsys):
    runs = [write_run(tmp_path / name, DICE + gain, n_scans=5) for name, gain in (("a", 0), ("b", GAIN))]
    compare_main(runs)
    out = capsys.readouterr().out
    assert "warning: with 5 scans no difference can reach p < 0.05" in out
    assert json.loads((tmp_path / "a/compare.json").read_text())["warnings"][0] in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"n_part": 2}}, "n_part=2, not 3"),
        ({"config": {"dataset": "SABS"}}, "dataset=SABS, not CHAOST2"),
        ({"config": {"test_label": [1]}}, r"test_label=\[1\], not \[1, 4\]"),
        ({"data": "xyz"}, "data_fingerprint=xyz, not abc"),
        ({"nsd_tolerance_mm": 2.0}, r"nsd_tolerance_mm=\[2.0\], not \[3.0\]"),
        (
            {"support_id": 9},
            "only .*/a: fold 0 support 2 query 0 liver.* and 12 more; only .*support 9",
        ),
        ({"n_scans": 7}, "only .*/a: fold 0 support 2 query 7 liver, .* spleen"),
        ({"fold": 1}, "only .*/b: fold 1"),
    ],
)
@pytest.mark.parametrize("allows_common", [False, True])
def test_runs_that_were_evaluated_otherwise_are_refused(tmp_path, changes, message, allows_common):
    runs = [write_run(tmp_path / "a", DICE), write_run(tmp_path / "b", DICE + GAIN, **changes)]
    if allows_common and "only" in message:
        compare_main([*runs, "common=True"])
        assert read_rows(tmp_path / "a")[runs[1], "dice", "liver"]["n_scans"] == str(
            changes.get("n_scans", 8)
        )
        return
    with pytest.raises(UserError, match=message) as caught:
        compare_main([*runs, f"common={allows_common}"])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("compare.*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{a}"], "two or more runs, got 1; usage: python validation.py compare"),
        (["{a}", "{b}", "{a}/"], "a: is the same run as .*/a; name two runs, or two methods of one, such as"),
        (["{a}", "{a}/../a/scores.json"], "scores.json: is the same run as .*/a; name two runs"),
        (["{a}@trained", "{a}"], "a: is the same run as .*/a@trained; name"),
        (["{a}", "{b}", "n_steps=3"], "n_steps=3: unknown option"),
        (["{a}", "{b}", "common=perhaps"], "common=perhaps: must be True or False"),
        (["{a}", "{a}x"], "holds no scores.json and no fold_<k>/evaluation"),
        (["{a}", "{b}@untrained"], "has no scores of untrained; it has trained"),
    ],
)
def test_invalid_requests_are_refused(runs, words, message):
    words = [word.format(a=runs[0], b=runs[1]) for word in words]
    with pytest.raises(UserError, match=message):
        compare_main(words)


def test_folds_without_a_common_scan_are_refused_even_if_common_ones_would_do(tmp_path):
    runs = [write_run(tmp_path / "a", DICE, n_scans=3)]
    others = [make_score(scan_id, 1, 0.5) for scan_id in (5, 6)]
    runs.append(write_run(tmp_path / "b", DICE, n_scans=0, extra=others))
    with pytest.raises(UserError, match="have no scan with the same organ and slices"):
        compare_main([*runs, "common=True"])


def test_runs_without_a_common_protocol_are_refused(tmp_path):
    runs = [write_run(tmp_path / "a", DICE), write_run(tmp_path / "b", DICE, protocol="all_slices")]
    with pytest.raises(UserError, match="have no scan with the same organ and slices"):
        compare_main(runs)
