"""The page is read by a parser that knows nothing of how it was made, and opened in a browser."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.util.evaluation.example_cases import GEOMETRY, make_cases, read_bars
from tests.util.evaluation.example_scores import make_absent, make_score
from tests.util.evaluation.parsed_page import Page
from util.evaluation.html_report import report_evaluation, write_report
from util.evaluation.metrics import METRICS
from util.evaluation.report_cases import Cases, add_prior_masks
from util.evaluation.report_figures import draw_distribution

ODD = '<script>alert("x")</script> & $x_1$'
DICE = {(5, 1): 0.5, (6, 1): 0.9, (7, 1): 0.7, (5, 2): 0.2, (6, 2): 0.4, (7, 2): 0.6}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FETCHING = {"src", "href", "xlink:href", "data", "poster", "action", "srcset", "background"}


@pytest.fixture(scope="module")
def scores():
    trained = [make_score(query, label, dice) for (query, label), dice in DICE.items()]
    baseline = [
        make_score(query, label, dice / 2, method="untrained") for (query, label), dice in DICE.items()
    ]
    other = [make_score(5, 1, 0.01, main_support=False, support_id=3)]
    return [*baseline, *trained, *other]


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("training")
    curve = {"steps": [1, 2, 3], "values": [0.9, 0.5, {"py/float": "nan"}]}
    (run_dir / "metrics.json").write_text(json.dumps({"loss": curve, "lr": {**curve, "values": [1, 1, 1]}}))
    return {
        "config": {"dataset": "MINE", "evaluation": {"guide": "none", "report": True}},
        "remarks": [f"warning: {ODD}"],
        "snapshot": str(run_dir / "snapshots" / "snapshot_000003.pt"),
        "snapshot_step": 3,
        "data_fingerprint": "abc123",
        "environment": {"torch": "2.9"},
        "commands": ["bash script/train.sh dataset=MINE", "bash script/evaluate.sh dataset=MINE"],
    }


@pytest.fixture(scope="module")
def report(scores, summary, tmp_path_factory):
    cases = make_cases([score for score in scores if score.method == "trained" and score.main_support])
    return write_report(tmp_path_factory.mktemp("report"), scores, summary, cases)


@pytest.fixture(scope="module")
def page(report):
    return Page(report.read_text(encoding="utf-8"))


def test_tables_show_the_means_of_the_scores(page):
    by_method, by_metric, *_ = page.tables
    header, *rows = by_method
    assert header == ["method", "liver", "right kidney", "mean"]
    actual = {row[0]: [cell.split(" ")[0] for cell in row[1:]] for row in rows}
    liver, kidney = (sum(v for (_, label), v in DICE.items() if label == n) / 3 for n in (1, 2))
    assert actual["trained"] == [f"{value:.3f}" for value in (liver, kidney, (liver + kidney) / 2)]
    assert actual["untrained"] == [f"{value / 2:.3f}" for value in (liver, kidney, (liver + kidney) / 2)]
    assert [row[0] for row in by_metric] == ["organ", "liver", "right kidney", "mean"]
    assert by_metric[0][1:] == [
        *(metric.label.format(tolerance=3) for metric in METRICS.values()),
        *("missed", "false", "scans"),
    ]
    assert by_metric[1][-3:] == ["0", "0", "3"]


def test_intervals_stand_beside_the_means(page):
    cell = page.tables[0][-1][1]
    mean, low, high = map(float, re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", cell).groups())
    assert 0.5 <= low <= mean <= high <= 0.9


def test_protocol_and_remarks_come_before_the_results(report):
    text = report.read_text(encoding="utf-8")
    assert text.index("slices scored: chunks") < text.index('class="warning"') < text.index("<table>")


def test_names_are_escaped(report, page):
    assert f"warning: {ODD}" in page.texts
    assert page.tags.count("script") == 1
    assert "alert(" not in re.findall(r"<script>(.*?)</script>", report.read_text(), re.DOTALL)[0]


def test_an_odd_organ_name_neither_runs_nor_breaks_the_page(scores, summary, tmp_path):
    odd = [make_score(query, 1, dice, organ=ODD) for (query, label), dice in DICE.items() if label == 1]
    path = write_report(tmp_path, odd, {**summary, "config": {"dataset": ODD}}, make_cases(odd))
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert ODD in page.tables[0][0]
    assert f"scan 5, {ODD}" in page.texts


def test_nothing_is_fetched(report, page):
    fetched = [value for _, actual in page.attributes for name, value in actual.items() if name in FETCHING]
    assert fetched
    assert [value[:30] for value in fetched if not value.startswith(("#", "data:"))] == []
    text = report.read_text(encoding="utf-8")
    assert re.findall(r"(?:https?:|@import|url\((?!#))", text) == []
    ids = [actual["id"] for _, actual in page.attributes if "id" in actual]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for value in fetched if value.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(ids)


def test_every_picture_has_an_alternative_text(page):
    for tag, actual in page.attributes:
        if tag == "svg" and actual.get("aria-hidden") != "true":
            assert actual["role"] == "img"
            assert len(actual["aria-label"]) > 20
    plots = page.of_class("plot")
    assert "liver: scan 5 0.50, scan 6 0.90, scan 7 0.70" in plots[0]["aria-label"]
    assert len(plots) == 2  # Dice and training curves


def test_cases_are_worst_median_and_best_of_each_organ(report):
    actual = re.findall(r"<strong>(\w+)</strong>: scan (\d) \(fold 0\), Dice ([\d.]+)", report.read_text())
    assert actual == [
        ("worst", "5", "0.500"),
        ("median", "7", "0.700"),
        ("best", "6", "0.900"),
        ("worst", "5", "0.200"),
        ("median", "6", "0.400"),
        ("best", "7", "0.600"),
    ]


def test_captions_state_the_size_of_a_prior_mask(scores, summary, tmp_path):
    cases = make_cases([make_score(query, 1, dice) for query, dice in ((5, 0.5), (6, 0.9), (7, 0.7))])
    mask = np.zeros(GEOMETRY.shape[1:], bool)
    some = mask.copy()
    some[:4, :4] = True  # 16 of 320 px
    cases.cases[0] = add_prior_masks(cases.cases[0], [mask, some], GEOMETRY)
    page = Page(write_report(tmp_path, scores, summary, cases).read_text(encoding="utf-8"))
    captions = [text for text in page.texts if text.startswith("prior mask: ")]
    unknown = "prior mask: recorded only for each fold's worst, median and best query"
    assert captions == ["prior mask: empty", "prior mask: 5.0 % of the slice", *[unknown] * 4]
    [drawn] = [actual["d"] for actual in page.of_class("prior") if actual.get("d")]
    np.testing.assert_array_equal(read_bars(drawn), some)
    labels = [actual["aria-label"] for actual in page.of_class("picture")]
    assert "Prior mask of the liver (empty): scan 5, slice 2" in labels


def test_without_any_prior_mask_nothing_is_said_of_them(report):
    assert "prior mask" not in report.read_text(encoding="utf-8").lower()


def test_queries_without_the_organ_are_thumbnails_only(scores, summary, tmp_path):
    absent = [make_absent(8, 1, is_false=True), make_absent(9, 1)]
    trained = [score for score in scores if score.method == "trained" and score.main_support]
    text = write_report(tmp_path, [*trained, *absent], summary, make_cases([*trained, *absent])).read_text()
    assert re.findall(r"<span>(scan [89], liver)</span> <span>([^<]+)</span>", text) == [
        ("scan 8, liver", "false organ"),
        ("scan 9, liver", "rightly empty"),
    ]
    cases = re.findall(r"<strong>(\w+)</strong>: scan (\d)", text)
    assert cases[:3] == [("worst", "5"), ("median", "7"), ("best", "6")]


def test_organ_groups_of_setting_2_are_distinguished(summary, tmp_path):
    scores = [make_score(query, label, 0.5) for query in (5, 6) for label in (1, 2)]
    folds = [{**summary, "folds": [0], "organ_group": group} for group in (0, 1)]
    config = {"dataset": "MINE", "setting": 2, "organ_group": 0}
    text = write_report(tmp_path, scores, {"config": config, "folds": folds}, Cases()).read_text()
    assert "<h1>MINE, setting 2, fold 0</h1>" in text
    assert "fold 0, organ group 0; fold 0, organ group 1: warning" in text
    alone = {**summary, "config": config}
    text = write_report(tmp_path, scores, alone, Cases()).read_text()
    assert "<h1>MINE, setting 2, organ group 0, fold 0</h1>" in text


def test_charts_mark_support_slices_and_the_dice_of_slices(page):
    charts = page.of_class("chart")
    assert len(charts) == 6
    assert (
        "2 slices with organ or prediction; lowest 0.67 in slice 3, highest 1.00 in slice 2"
        in (charts[0]["aria-label"])
    )
    assert len(page.of_class("dice-point")) == 2 * 6
    assert len(page.of_class("support-mark")) == 2 * 6


def test_every_query_has_a_thumbnail_worst_first(page):
    actual = [(int(item["data-query"]), float(item["data-dice"])) for item in page.of_class("thumbnail")]
    assert actual == [(query, dice) for (query, _), dice in sorted(DICE.items(), key=lambda item: item[1])]


def test_settings_versions_fingerprint_and_commands_are_folded_away(page):
    texts = "".join(page.texts)
    for part in ("abc123", "step 3", "bash script/evaluate.sh dataset=MINE", "2.9"):
        assert part in texts
    assert ["evaluation.guide", "none"] in page.tables[-1]
    assert page.tags.count("summary") == 6 + 3


def test_figures_are_written_for_papers(report):
    folder = report.parent / "figures"
    assert sorted(path.name for path in folder.iterdir()) == ["dice_chunks.pdf", "dice_chunks.png"]
    assert (folder / "dice_chunks.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "dice_chunks.png").read_bytes().startswith(b"\x89PNG")


def test_equal_evaluations_give_equal_pages(scores, summary, tmp_path):
    pages = [write_report(tmp_path / name, scores, summary, Cases()).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_a_cross_validation_names_folds_and_those_without_pictures(summary, tmp_path, capsys):
    scores = [make_score(query, 1, 0.5, fold=fold) for fold, query in ((0, 5), (0, 6), (1, 7), (1, 8))]
    folds = [{**summary, "folds": [fold], "scores": "x/scores.json"} for fold in (0, 1)]
    joined = {"config": summary["config"], "folds": folds, "data_fingerprint": "abc123"}
    report_evaluation(tmp_path, scores, joined, make_cases(scores[:2]))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "MINE, folds 0, 1" in page.texts
    assert "fold 1: no pictures were recorded" in page.texts
    assert f"folds 0, 1: warning: {ODD}" in page.texts  # once
    assert "Dice, SD of folds" in page.tables[1][0]
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert re.fullmatch(rf"report, written in [\d.]+ s: {re.escape(str(tmp_path / 'report.html'))}", last)


def test_a_missing_package_causes_a_warning_only(scores, summary, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    report_evaluation(tmp_path, scores, summary, Cases())
    assert "warning: no report was written" in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()


def open_in_browser(path, profile):
    """Open a page in headless Chromium; return its elements after scripts ran, and console messages."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine; install it (Debian: apt-get install chromium)")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=2000"]
    result = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    messages = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return Page(result.stdout), messages


def add_script(report, script):
    """Add a script that a page runs after its own; return the page's text without it."""
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return text


# The browser's own window is at least 500 px wide.
FRAME = """<iframe src="report.html" style="width: 360px; height: 800px"></iframe>
<script>addEventListener("message", (event) => Object.assign(document.body.dataset, event.data));</script>"""
MEASURE = """const root = document.documentElement, drawn = document.querySelector(".picture use");
parent.postMessage({ width: innerWidth, overflow: root.scrollWidth - innerWidth,
                     drawn: drawn.getBoundingClientRect().width }, "*");"""


def test_a_browser_shows_it_without_errors(report, tmp_path):
    page, messages = open_in_browser(report, tmp_path)
    assert messages == []
    assert [actual["data-marked"] for actual in page.of_class("thumbnail")] == [""] * len(DICE)


def test_a_phone_shows_it_without_sideways_scrolling(report, tmp_path):
    shutil.copy(report, tmp_path / "report.html")
    add_script(tmp_path / "report.html", MEASURE)
    (tmp_path / "phone.html").write_text(f"<body>{FRAME}</body>")
    page, messages = open_in_browser(tmp_path / "phone.html", tmp_path / "profile")
    assert messages == []
    [body] = [actual for tag, actual in page.attributes if tag == "body"]
    assert body["data-width"] == "360"
    assert float(body["data-overflow"]) <= 0
    assert float(body["data-drawn"]) > 50


MARK_BY_KEYBOARD = """
const send = (key) => new KeyboardEvent("keydown", { key, bubbles: true });
const press = (...keys) => keys.forEach((key) => document.activeElement.dispatchEvent(send(key)));
document.querySelector(".thumbnail").focus();
press("f", "ArrowRight", "a", "ArrowRight", "p", "ArrowRight", "p", "u");
URL.createObjectURL = (blob) => {
  blob.text().then((text) => { document.body.dataset.exported = text; });
  return "#";
};
document.querySelector(".export").click();
"""


def test_marks_are_set_by_keyboard_exported_and_kept_in_the_browser(report, tmp_path):
    copy = tmp_path / "report.html"
    shutil.copy(report, copy)
    original = add_script(copy, MARK_BY_KEYBOARD)
    page, messages = open_in_browser(copy, tmp_path / "profile")
    assert messages == []
    expected = ["fail", "artifact", "pass", "", "", ""]
    assert [actual["data-marked"] for actual in page.of_class("thumbnail")] == expected
    [body] = [actual for tag, actual in page.attributes if tag == "body"]
    exported = json.loads(body["data-exported"])
    assert exported["report"] == "MINE, fold 0"
    assert [entry["mark"] for entry in exported["marks"]] == [mark or None for mark in expected]
    worst = {
        "protocol": "chunks",
        "fold": 0,
        "query": 5,
        "organ": "right kidney",
        "dice": 0.2,
        "mark": "fail",
    }
    assert exported["marks"][0] == worst
    copy.write_text(original, encoding="utf-8")
    page, _ = open_in_browser(copy, tmp_path / "profile")
    assert [actual["data-marked"] for actual in page.of_class("thumbnail")] == expected


def test_the_distribution_of_a_single_scan_is_drawn():
    axes = draw_distribution([make_score(7)]).axes[0]
    assert any("scan 7" in text.get_text() for text in axes.texts)
