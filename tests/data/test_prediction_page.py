"""The page of a prediction, read by a parser and opened in a browser."""

import json
import re

import numpy as np
import pytest

from data.prediction_page import COLOURS, PredictionPage
from data.prediction_results import Agreement, Segmentation
from tests.oriented_scans import is_bright, l_scan
from tests.util.evaluation.test_html_report import FETCHING, Page, add_script, open_in_browser

ODD = '<script>alert("x")</script> & gland'
LABELS = {1: "liver", 500: ODD}
CONFIDENCES = {"good.nii.gz": 0.9, "odd <i>.nii.gz": 0.2, "best.nii.gz": 0.95, "fair.nii.gz": 0.5}
NOTICE = "research use only: not a medical device"


def _make_page(folder, labels=LABELS):
    page, summaries, scan = PredictionPage(labels), {}, l_scan("RSA")
    label_map = is_bright(scan).astype(np.uint16) * list(labels)[-1]
    page.add_support("a.nii.gz", scan.voxels, label_map, scan.geometry)
    for name, confidence in CONFIDENCES.items():
        agreements = [Agreement(1, support, 0.25, None) for support in ("a.nii.gz", "b.nii.gz")]
        failures = {"b.nii.gz": "the bodies hardly overlap"} if name == "fair.nii.gz" else {}
        # A failed registration of one of two supports halves the scan's confidence.
        confidences = dict.fromkeys(labels, 2 * confidence if failures else confidence)
        result = Segmentation(label_map, scan.geometry, labels, confidences, agreements, failures)
        summaries[name] = result.summarise()
        page.add_scan(name, scan.voxels, label_map, scan.geometry)
    return page.write(folder, summaries, failed={"bad.nii": "bad.nii: cannot be read"}, notice=NOTICE)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return _make_page(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text(encoding="utf-8"))


def test_doubtful_scans_come_first_and_three_are_named_and_open(page):
    order = ["odd <i>.nii.gz", "fair.nii.gz", "good.nii.gz", "best.nii.gz"]
    assert [result["data-scan"] for result in page.of_class("thumbnail")] == order
    assert [row[0] for row in page.tables[0][1:]] == order
    assert ["open" in result for result in page.of_class("case")] == [True, True, True, False]
    text = " ".join(page.texts)
    assert "lowest confidence first: odd <i>.nii.gz (0.20), fair.nii.gz (0.50), good.nii.gz (0.90)" in text


def test_volumes_failures_and_the_notice_are_reported(page):
    volume_ml = f"{int(is_bright(l_scan()).sum()) * 5.0 * 1.5 * 1.5 / 1000:.1f}"
    assert page.tables[0][0] == ["scan", "liver", ODD, "confidence"]
    assert page.tables[0][1][1:] == ["0.0", volume_ml, "0.20"]
    assert page.tables[0][-1][-1] == "0.95"
    text = " ".join(page.texts)
    for part in (NOTICE, "not segmented: bad.nii: cannot be read", "the bodies hardly overlap"):
        assert part in text
    assert ["liver", "a.nii.gz", "0.25", "-", "-", "-"] in page.tables[1]


def test_nothing_is_fetched_or_run_and_every_picture_has_a_text(written, page):
    assert page.tags.count("script") == 1
    fetched = [value for _, result in page.attributes for name, value in result.items() if name in FETCHING]
    assert [value[:30] for value in fetched if not value.startswith(("#", "data:"))] == []
    assert re.findall(r"(?:https?:|@import|url\((?!#))", written.read_text(encoding="utf-8")) == []
    ids = [result["id"] for _, result in page.attributes if "id" in result]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in fetched if value.startswith("#")} <= set(ids)
    pictures = page.of_class("picture")
    assert len(pictures) == 4 + 5 * 2  # thumbnails; whole slice and detail of scans and support
    assert all(ODD in result["aria-label"] and "slice" in result["aria-label"] for result in pictures)
    strokes = {result["stroke"] for result in page.of_class("outline")}
    assert strokes == {COLOURS[1]}


def test_many_labels_are_distinguished_by_dashes(tmp_path):
    n_labels = 2 * len(COLOURS) + 1
    many = Page(_make_page(tmp_path, {n: f"organ {n}" for n in range(1, n_labels + 1)}).read_text())
    keys = [
        (result["stroke"], result["stroke-dasharray"]) for tag, result in many.attributes if tag == "line"
    ]
    assert len(keys) == len(set(keys)) == n_labels


MARK = """
const send = (key) => new KeyboardEvent("keydown", { key, bubbles: true });
document.querySelector(".thumbnail").focus();
["f", "ArrowRight", "p"].forEach((key) => document.activeElement.dispatchEvent(send(key)));
URL.createObjectURL = (blob) => {
  blob.text().then((text) => { document.body.dataset.exported = text; });
  return "#";
};
document.querySelector(".export").click();
"""


def test_a_browser_shows_it_without_errors_and_exports_marks(tmp_path):
    path = _make_page(tmp_path)
    add_script(path, MARK)
    shown, messages = open_in_browser(path, tmp_path / "profile")
    assert messages == []
    [body] = [result for tag, result in shown.attributes if tag == "body"]
    assert json.loads(body["data-exported"])["marks"] == [
        {"scan": "odd <i>.nii.gz", "confidence": 0.2, "mark": "fail"},
        {"scan": "fair.nii.gz", "confidence": 0.5, "mark": "pass"},
        {"scan": "good.nii.gz", "confidence": 0.9, "mark": None},
        {"scan": "best.nii.gz", "confidence": 0.95, "mark": None},
    ]
