"""Overlap of two masks, counted by hand."""

import numpy as np
import pytest

from util.evaluation.metrics import dice_and_iou


def _masks(predicted, true):
    return np.array(predicted), np.array(true)


@pytest.mark.parametrize(
    ("predicted", "true", "dice", "iou"),
    [
        # 2 common of 3 and 4: 2 * 2 / 7 and 2 / 5.
        ([1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0], 4 / 7, 2 / 5),
        ([1, 1, 0], [1, 1, 0], 1.0, 1.0),
        ([1, 1, 0, 0], [0, 0, 1, 1], 0.0, 0.0),
        ([0, 0, 0], [0, 1, 0], 0.0, 0.0),
        ([0, 1, 0], [0, 0, 0], 0.0, 0.0),
        ([0, 0, 0], [0, 0, 0], 1.0, 1.0),
        ([1, 1, 1, 1], [1, 0, 0, 0], 2 / 5, 1 / 4),
    ],
)
def test_overlap_is_counted_by_hand(predicted, true, dice, iou):
    assert dice_and_iou(*_masks(predicted, true)) == pytest.approx((dice, iou), abs=1e-15)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_any_dtype_counts_alike(dtype):
    predicted, true = _masks([1, 1, 1, 0], [0, 1, 1, 1])
    assert dice_and_iou(predicted.astype(dtype), true) == pytest.approx((2 / 3, 1 / 2))


def test_overlap_does_not_depend_on_roles_and_obeys_dices_relation_to_iou():
    rng = np.random.default_rng(0)
    for _ in range(20):
        predicted, true = rng.random((2, 3, 8, 8)) < 0.4
        dice, iou = dice_and_iou(predicted, true)
        assert dice_and_iou(true, predicted) == (dice, iou)
        assert dice == pytest.approx(2 * iou / (1 + iou))


def test_many_voxels_do_not_overflow():
    # 300 voxels of uint8 ones would sum to 44 in their own type.
    ones = np.ones(300, dtype=np.uint8)
    assert dice_and_iou(ones, ones) == (1.0, 1.0)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the same shape, got \(2, 3\) and \(3, 2\)"):
        dice_and_iou(np.zeros((2, 3)), np.zeros((3, 2)))
