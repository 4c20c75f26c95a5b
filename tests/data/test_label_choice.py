"""Which labels are segmented, and how they are named."""

import json

import numpy as np
import pytest

from data.label_choice import choose_labels, find_label_names, renumber_labels
from util.errors import UserError

TRAINING = {1: "liver", 4: "spleen"}


@pytest.mark.parametrize(
    ("requested", "names", "selected"),
    [
        (None, {}, {1: "label 1", 4: "label 4"}),
        (None, {4: "prostate"}, {1: "label 1", 4: "prostate"}),
        (("4",), {}, {4: "label 4"}),
        ((4, 1), {}, {1: "label 1", 4: "label 4"}),
        (("4:left kidney",), {4: "prostate"}, {4: "left kidney"}),
        (("spleen",), {}, {4: "spleen"}),
        ("spleen", {}, {4: "spleen"}),
        (4, {}, {4: "label 4"}),
        (("prostate",), {1: "prostate"}, {1: "prostate"}),
        ({4: "gland"}, {4: "prostate"}, {4: "gland"}),
        (("4:gland", "4:gland"), {}, {4: "gland"}),
    ],
)
def test_labels_are_chosen_by_id_and_name(requested, names, selected):
    assert choose_labels(requested, {1, 4}, names=names, training_names=TRAINING) == selected


@pytest.mark.parametrize(
    ("requested", "present", "message"),
    [
        (("7",), {1, 4}, "labels=7: must be a label of the supports' masks, which hold 1, 4;"),
        (("kidney",), {1}, "labels=kidney: must be a label"),
        (("spleen",), {1}, "labels=spleen: must be a label of the supports' masks, which hold 1;"),
        ({9: "x"}, {1}, "labels=9:x: must be"),
        (None, set(), "labels: the supports' masks hold no label above 0"),
        (("1:a", "4:a"), {1, 4}, "labels: names must differ, got a, a"),
        (("1:a", "1:b"), {1, 4}, "labels: 1 must have one name, got a and b"),
        (("1:background",), {1}, "labels: background names the voxels without a label"),
        (None, set(range(1, 256)), "labels: at most 254 at once, got 255"),
    ],
)
def test_impossible_labels_are_refused(requested, present, message):
    with pytest.raises(UserError) as caught:
        choose_labels(requested, present, names={}, training_names=TRAINING)
    assert str(caught.value).startswith(message)


def test_every_wrong_label_is_named():
    with pytest.raises(UserError) as caught:
        choose_labels(("7", "8", "1"), {1}, names={}, training_names={})
    assert len(str(caught.value).splitlines()) == 2


def test_names_come_from_a_dataset_json_beside_the_mask_or_above(tmp_path):
    mask = tmp_path / "labelsTr" / "a.nii.gz"
    mask.parent.mkdir()
    assert find_label_names([None, mask]) == {}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 2}}))
    assert find_label_names([mask]) == {2: "liver"}


def test_chosen_labels_are_counted_from_one():
    label_map = np.array([[[0, 500, 3, 7]]], np.uint16)
    assert renumber_labels(label_map, (3, 500)).tolist() == [[[0, 2, 1, 0]]]
