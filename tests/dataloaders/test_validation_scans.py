"""Which scans validate a training, what is segmented in them, and its mean Dice."""

import numpy as np
import pytest
import torch

from data.datasets import find_spec
from data.layout import DatasetLayout
from dataloaders import validation_scans
from dataloaders.evaluation_sets import EvaluationScan
from dataloaders.splits import Split, split_scans
from dataloaders.validation_scans import hold_back_scans, plan_validation, validation_dice
from util.errors import UserError
from util.io.image_io import Geometry
from util.parallel.devices import SINGLE_RANK

ORGANS = {1: "liver", 4: "spleen"}


def _scan(scan_id, *, liver=(), spleen=(), n_slices=8):
    label_map = np.zeros((n_slices, 4, 4), np.int16)
    label_map[list(liver), 0, 0] = 1
    label_map[list(spleen), 3, :2] = 4
    geometry = Geometry(label_map.shape, (8.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    return EvaluationScan(scan_id, torch.zeros(n_slices, 1, 4, 4), label_map, label_map, geometry)


@pytest.fixture
def plan(monkeypatch, tmp_path):
    """Plan the validation of scans in memory."""
    layout = DatasetLayout(find_spec("CHAOST2"), tmp_path, tmp_path, 5000)

    def plan(*scans):
        by_id = {scan.scan_id: scan for scan in scans}
        monkeypatch.setattr(
            validation_scans, "load_evaluation_scan", lambda _layout, scan_id, **_options: by_id[scan_id]
        )
        return plan_validation(layout, list(by_id), ORGANS, n_part=3, image_size_px=None)

    return plan


def _split(training, unlabelled=()):
    return Split(held_out=(90, 91), training=tuple(training), unlabelled=tuple(unlabelled))


def test_scans_are_spread_over_the_training_scans_of_the_fold():
    split, validation = hold_back_scans(_split(range(10, 25)), 3)
    assert validation == (12, 17, 22)  # positions 15/6, 45/6 and 75/6 of fifteen, rounded down
    assert split.training == (10, 11, 13, 14, 15, 16, 18, 19, 20, 21, 23, 24)
    assert split.held_out == (90, 91)


def test_no_scan_is_held_back_without_validation():
    assert hold_back_scans(_split((1, 2)), 0) == (_split((1, 2)), ())


@pytest.mark.parametrize("fold", range(5))
def test_no_scan_of_the_held_out_fold_validates(fold):
    split, validation = hold_back_scans(split_scans(range(20), range(20), fold), 4)
    assert not set(validation) & set(split.held_out)
    assert not set(validation) & set(split.training)
    assert len(set(validation)) == 4
    assert sorted({*validation, *split.held_out, *split.training}) == list(range(20))


def test_scans_without_labels_train_and_never_validate():
    split, validation = hold_back_scans(_split((1, 2, 3, 4), unlabelled=(2, 4)), 2)
    assert (validation, split.training) == ((1, 3), (2, 4))


@pytest.mark.parametrize(
    ("training", "unlabelled", "message"), [((1, 2), (), "2 of 2"), ((1, 2, 3), (1, 3), "1 of 3")]
)
def test_too_few_scans_are_refused(training, unlabelled, message):
    with pytest.raises(UserError, match=f"validation_scans=2: {message} training scans have labels"):
        hold_back_scans(_split(training, unlabelled), 2)


def test_each_organ_has_the_first_scan_that_shows_it_long_enough_as_support(plan):
    first = _scan(5, liver=range(2), spleen=range(3, 6))
    second = _scan(7, liver=range(1, 7), spleen=[4])
    third = _scan(9, spleen=range(4))
    jobs = [(job.label, job.support.scan_id, job.query.scan_id) for job in plan(first, second, third)]
    assert jobs == [(1, 7, 5), (4, 5, 7), (4, 5, 9)]


def test_an_organ_without_support_or_query_is_left_out_but_not_all(plan):
    shows_it = _scan(5, liver=range(4))
    with pytest.raises(UserError, match=r"validation_scans=2: scans 5, 7 must show an organ of test_label"):
        plan(shows_it, _scan(7))
    assert [job.label for job in plan(shows_it, _scan(7, liver=[2], spleen=range(4)))] == [1]
    assert plan() == []


def test_dice_is_averaged_over_queries_and_then_over_organs(plan):
    jobs = plan(
        _scan(5, liver=range(4), spleen=range(4)), _scan(7, liver=[2], spleen=[3]), _scan(9, liver=[0, 1])
    )
    assert [(job.label, job.query.scan_id) for job in jobs] == [(1, 7), (1, 9), (4, 7)]

    def segment(queries):
        """The upper left pixel everywhere: right for the liver of scan 7, half of scan 9's, no spleen."""
        result = []
        for query in queries:
            assert query["size_px"] == (4, 4)
            probabilities = torch.zeros(len(query["slices"]), 4, 4)
            last = len(probabilities) - (query["query_id"] == 9)
            probabilities[:last, 0, 0] = 1
            result.append(probabilities)
        return result

    assert validation_dice(jobs, segment, ranks=SINGLE_RANK) == pytest.approx(((1 + 2 / 3) / 2 + 0) / 2)
