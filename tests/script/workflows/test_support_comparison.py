"""Each support segmented from the others: what one alone, all, and all but one give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.model_frame import ModelFrame
from data.prediction_results import describe_supports
from data.raw.input_scans import InputScan
from data.transforms import Preparation
from dataloaders.warped_masks import WarpedSupport
from models.inference.segmenters import CopySegmenter
from script.workflows import support_ensemble
from script.workflows.scan_segmenter import Segmenter
from script.workflows.support_ensemble import Options
from tests.oriented_scans import l_scan

CPU = torch.device("cpu")
FRAME = ModelFrame(Preparation(orientation="LAS"), None, "test")
# Columns of label 1 in three supports; the third holds label 2 as well.
COLUMNS = {"a": slice(0, 10), "b": slice(0, 10), "c": slice(5, 15)}


def _supports(names):
    scan = l_scan("LAS")
    masks = {name: np.zeros(scan.geometry.shape, np.uint8) for name in names}
    for name, mask in masks.items():
        mask[:, 5:9, COLUMNS[name]] = 1
    if "c" in masks:
        masks["c"][:, 20:25, 5:15] = 2
    scans = [replace(scan, name=name) for name in names]
    return scans, [InputScan(mask, scan.geometry, f"mask of {name}") for name, mask in masks.items()]


def _segmenter(names, **options):
    segmenter = Segmenter(CopySegmenter(), FRAME, device=CPU, options=Options(guided=False), **options)
    segmenter.set_support(*_supports(names))
    return segmenter


def test_each_support_is_scored_alone_with_all_others_and_left_out():
    scores = _segmenter("abc").compare_supports()
    table = {(s.scan, s.support): (s.alone, s.together, s.without) for s in scores}
    assert {score.label for score in scores} == {1}  # label 2 has no second support
    # Columns 0-9 of a and b, 5-14 of c: half of c is theirs, and a mean of two needs both.
    assert table == {
        ("a", "b"): (1.0, pytest.approx(2 / 3), 0.5),
        ("a", "c"): (0.5, pytest.approx(2 / 3), 1.0),
        ("b", "a"): (1.0, pytest.approx(2 / 3), 0.5),
        ("b", "c"): (0.5, pytest.approx(2 / 3), 1.0),
        ("c", "a"): (0.5, 0.5, 0.5),
        ("c", "b"): (0.5, 0.5, 0.5),
    }
    lines = describe_supports(scores, by="the network")
    assert lines[0].endswith(f"by the network: mean Dice {(2 / 3 + 2 / 3 + 0.5) / 3:.2f}")
    harm = ": it harms, consider leaving it out"
    assert lines[3] == f"  from c alone: 0.50; all with it 0.67, without it 1.00{harm}"
    assert not any(harm in line for line in lines[:3])


def test_with_two_supports_nothing_is_left_without_one():
    scores = _segmenter("ac").compare_supports()
    assert [(s.scan, s.support, s.alone, s.without) for s in scores] == [
        ("a", "c", 0.5, None),
        ("c", "a", 0.5, None),
    ]
    assert [s.together for s in scores] == [0.5, 0.5]
    assert "without" not in "".join(describe_supports(scores, by="the network"))
    assert _segmenter("a").compare_supports() == []


def test_the_network_has_not_learnt_from_the_masks_that_it_is_to_find():
    class Cheat(CopySegmenter):
        def segment(self, support, encoding, *, image_size):
            raise AssertionError("the adapted network must not be compared")

    segmenter = _segmenter(
        "ab",
        adapt=lambda supports, n_labels: Cheat(),
        train_unet=lambda supports, n_labels: lambda images: torch.ones(len(images), 2, *images.shape[2:]),
    )
    assert [score.alone for score in segmenter.compare_supports()] == [1.0, 1.0]
    assert segmenter.describe_comparison() == "the network before it learnt from them"
    assert _segmenter("ab").describe_comparison() == "the network"


def test_a_failed_registration_leaves_a_gap_where_nothing_else_segments(monkeypatch):
    def warp(support, query, **_):
        if support.scan.name == "b":
            return WarpedSupport(None, {}, "the bodies hardly overlap")
        return WarpedSupport(None, {1: (support.label_map == 1).astype(np.float32)}, None)

    monkeypatch.setattr(support_ensemble, "warp_support", warp)
    segmenter = Segmenter.by_registration("MR", intensity_weight=0)
    segmenter.set_support(*_supports("ab"))
    scores = segmenter.compare_supports()
    assert [(s.scan, s.support, s.alone, s.together) for s in scores] == [
        ("a", "b", None, None),
        ("b", "a", 1.0, 1.0),
    ]
    lines = describe_supports(scores, by=segmenter.describe_comparison())
    assert lines[0].endswith("by registration: mean Dice 1.00")
    assert lines[2] == "  from b alone: unknown"
