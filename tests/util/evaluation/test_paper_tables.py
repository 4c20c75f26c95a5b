"""Tables for papers: ranks, intervals and LaTeX's special characters."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from tests.util.evaluation.example_scores import make_score
from util.evaluation.metrics import METRICS
from util.evaluation.paper_tables import (
    escape_latex,
    format_latex,
    format_markdown,
    tabulate_metric,
    tabulate_organs,
    write_estimate_tables,
    write_tables,
)
from util.evaluation.statistics import estimate

NAMED = {
    name: [make_score(scan_id, label, dice + 0.01 * scan_id) for scan_id in range(3) for label in (1, 4)]
    for name, dice in (("a_run", 0.5), ("b", 0.7), ("c", 0.6))
}


def _rows(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]


def test_markdown_marks_the_best_and_the_second_and_has_small_intervals():
    rows = _rows(format_markdown(tabulate_metric(NAMED, "dice", "chunks")))
    assert rows[0] == ["", "liver", "spleen", "mean"]
    result = estimate(NAMED["b"], "dice")["liver"]
    assert rows[3][:2] == ["b", f"**0.710** <sub>[{result.low:.3f}, {result.high:.3f}]</sub>"]
    assert rows[4][1].startswith("<u>0.610</u> <sub>[")
    assert rows[2][1].startswith("0.510 <sub>[")


def test_the_smallest_distance_is_the_best():
    rows = _rows(format_markdown(tabulate_metric(NAMED, "hd95_mm", "chunks")))
    assert rows[3][1].startswith("**2.9**")  # Dice 0.71: 10 * (1 - 0.71)
    assert rows[4][1].startswith("<u>3.9</u>")


def test_equal_values_share_a_rank_and_a_single_row_has_none():
    twice = {"a": NAMED["b"], "b": NAMED["b"], "c": NAMED["c"]}
    rows = _rows(format_markdown(tabulate_metric(twice, "dice", "chunks")))
    assert [row[1][:9] for row in rows[2:]] == ["**0.710**", "**0.710**", "<u>0.610<"]
    alone = format_markdown(tabulate_metric({"a": NAMED["b"]}, "dice", "chunks"))
    assert "**0.710" not in alone
    assert "0.710" in alone


def test_an_organ_that_a_method_was_not_scored_for_is_a_dash():
    named = {"a": NAMED["b"], "b": [score for score in NAMED["c"] if score.label == 1]}
    rows = _rows(format_markdown(tabulate_metric(named, "dice", "chunks")))
    assert rows[3][2] == "-"


def test_latex_is_booktabs_with_bold_underline_and_escaped_names():
    text = format_latex(tabulate_metric(NAMED, "dice", "all_slices"))
    result = estimate(NAMED["b"], "dice")["liver"]
    assert "b & \\textbf{0.710} & " in text
    assert f"\n & {{\\scriptsize[{result.low:.3f}, {result.high:.3f}]}} & " in text
    assert r"c & \underline{0.610} & " in text
    assert r"a\_run & 0.510 " in text
    assert r"\caption{Dice, all\_slices; mean over 3 scans with 95 \% bootstrap interval}" in text
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1


def test_latex_has_a_row_for_each_of_many_metrics():
    table = tabulate_organs(NAMED["b"], "chunks")
    text = format_latex(table)
    rows = [line for line in text.splitlines() if "&" in line]
    assert rows[0] == r" & liver & spleen & mean \\"
    assert rows[1] == r"Dice & 0.710 & 0.710 & 0.710 \\"
    assert rows[-2].startswith(r"\textbar{}volume error\textbar{} (\%) & 5.8 & ")
    assert len(rows) == 1 + 2 * len(METRICS)
    assert {row.count("&") for row in rows} == {3}


def test_latex_has_no_row_of_intervals_for_a_single_scan():
    alone = {"a": [make_score(3, 1, 0.5)], "b": [make_score(3, 1, 0.6)]}
    text = format_latex(tabulate_metric(alone, "dice", "chunks"))
    assert [line for line in text.splitlines() if "&" in line][1:] == [
        r"a & \underline{0.500} & \underline{0.500} \\",
        r"b & \textbf{0.600} & \textbf{0.600} \\",
    ]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 5 %", r"a\_b \& 5 \%"),
        ("{~^\\", r"\{\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("|<", r"\textbar{}\textless{}"),
    ],
)
def test_special_characters_are_escaped(text, escaped):
    assert escape_latex(text) == escaped


def test_a_run_gets_its_methods_and_the_metrics_of_the_best_one(tmp_path):
    others = [make_score(i, 1, 0.2, method="registration") for i in range(3)]
    ignored = make_score(7, 1, 0.99, main_support=False)
    write_tables(tmp_path, [*NAMED["b"], *others, ignored])
    text = (tmp_path / "table.md").read_text()
    rows = _rows(text)
    assert rows[0] == ["", "liver", "spleen", "mean"]
    assert [row[0] for row in rows[2:4]] == ["trained", "registration"]
    assert rows[4][:6] == ["", "Dice", "IoU", "precision", "recall", "NSD at 3 mm"]
    assert [row[0] for row in rows[6:]] == ["liver", "spleen", "mean"]
    assert (tmp_path / "table.tex").read_text().count(r"\begin{tabular}") == 2


def test_a_long_name_has_a_separate_line():
    name = "adapted + registration + intensities"
    lines = format_latex(tabulate_metric({name: NAMED["b"], "b": NAMED["c"]}, "dice", "chunks")).splitlines()
    position = lines.index(rf"\multicolumn{{4}}{{@{{}}l@{{}}}}{{{name}}} \\*")
    assert lines[position + 1].startswith(r" & \textbf{0.710}")


def test_many_organs_of_runs_with_long_names_have_letters_as_headers():
    text = format_latex(tabulate_metric(_many_organs(), "dice", "chunks"))
    assert text.splitlines()[7] == r" & A & B \\"
    assert r"; A: CHAOST2-a\_long\_tag/fold\_0/evaluation/1; B: CHAOST2-another" in text
    assert "CHAOST2" not in text.splitlines()[7]


def _many_organs():
    return {
        f"CHAOST2-{tag}/fold_0/evaluation/1": [
            replace(make_score(scan, 1, 0.5), label=label, organ=f"organ {label}")
            for scan in range(2)
            for label in range(1, 9)
        ]
        for tag in ("a_long_tag", "another_one_that_is_longer")
    }


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
@pytest.mark.parametrize("is_long", [False, True])
def test_latex_compiles_and_fits_the_page(is_long, tmp_path):
    registered = [replace(score, method="registration", dice=score.dice - 0.1) for score in NAMED["b"]]
    if is_long:
        tables = [tabulate_metric(_many_organs(), "dice", "chunks")]
        named = dict(zip(_many_organs(), (NAMED["b"], NAMED["c"]), strict=True))
        write_estimate_tables(tmp_path, "table", [*tables, tabulate_metric(named, "dice", "chunks")])
    else:
        write_tables(tmp_path, [*NAMED["b"], *registered])
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    (tmp_path / "paper.tex").write_text(text)
    subprocess.run(["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, check=True, capture_output=True)
    assert "Overfull" not in (tmp_path / "paper.log").read_text()
