"""Metrics of two masks, by hand."""

import numpy as np
import pytest

from tests.util.evaluation.example_scores import make_score
from util.evaluation.metrics import METRICS, dice_and_iou, measure_masks, metric_label, metric_value
from util.evaluation.surface_distances import measure_surfaces
from util.io.image_io import Geometry


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


AXES = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
GEOMETRY = Geometry((10, 8, 8), (5.0, 2.0, 2.0), (0.0, 0.0, 0.0), AXES)  # 50 x 16 x 16 mm
VOXEL_ML = 0.02


def _measure(predicted, true, slices=None, **changes):
    slices = np.arange(len(true)) if slices is None else np.array(slices)
    return measure_masks(
        predicted, true, **{"slices": slices, "geometry": GEOMETRY, "nsd_tolerance_mm": 1.0, **changes}
    )


def _volume(*columns):
    """Three slices; in each, 4 rows of the columns."""
    mask = np.zeros((3, 8, 8), dtype=bool)
    mask[:, 2:6, columns] = True
    return mask


def test_metrics_of_a_shifted_block_are_those_by_hand():
    # 3 slices of 4 x 4 voxels; the prediction is 4 x 3 of them and 4 x 2 others.
    result = _measure(_volume(1, 2, 3, 4, 5), _volume(3, 4, 5, 6))
    n_true, n_predicted, n_both = 48, 60, 36
    assert result.dice == pytest.approx(2 * n_both / (n_true + n_predicted))
    assert result.iou == pytest.approx(n_both / (n_true + n_predicted - n_both))
    assert (result.precision, result.recall) == pytest.approx((n_both / n_predicted, n_both / n_true))
    assert (result.true_ml, result.predicted_ml) == pytest.approx((n_true * VOXEL_ML, n_predicted * VOXEL_ML))
    assert result.volume_error_ml == pytest.approx(12 * VOXEL_ML)
    assert result.volume_error_percent == pytest.approx(25)
    surfaces = measure_surfaces(_volume(1, 2, 3, 4, 5), _volume(3, 4, 5, 6), GEOMETRY.spacing_mm)
    assert (result.nsd, result.hd95_mm, result.assd_mm) == (surfaces.nsd(1.0), 4.0, surfaces.assd_mm)
    assert (result.is_missed, result.is_false) == (False, False)


def test_a_missed_organ_costs_the_volumes_diagonal_and_is_noted():
    result = _measure(_volume(), _volume(2, 3))
    diagonal_mm = (50**2 + 16**2 + 16**2) ** 0.5
    assert (result.dice, result.iou, result.precision, result.recall, result.nsd) == (0, 0, 0, 0, 0)
    assert (result.hd95_mm, result.assd_mm) == pytest.approx((diagonal_mm, diagonal_mm))
    assert (result.volume_error_ml, result.volume_error_percent) == pytest.approx((-24 * VOXEL_ML, -100))
    assert (result.is_missed, result.is_false) == (True, False)


def test_a_false_organ_costs_the_same_and_is_noted():
    result = _measure(_volume(2, 3), _volume())
    assert (result.dice, result.precision, result.recall, result.nsd) == (0, 0, 0, 0)
    assert result.hd95_mm == result.assd_mm == pytest.approx((50**2 + 16**2 + 16**2) ** 0.5)
    assert result.volume_error_ml == pytest.approx(24 * VOXEL_ML)
    assert result.volume_error_percent is None
    assert (result.is_missed, result.is_false) == (False, True)


def test_nothing_predicted_where_nothing_is_costs_nothing():
    result = _measure(_volume(), _volume())
    assert (result.dice, result.iou, result.precision, result.recall, result.nsd) == (1, 1, 1, 1, 1)
    assert (result.hd95_mm, result.assd_mm, result.volume_error_ml) == (0, 0, 0)
    assert (result.is_missed, result.is_false) == (False, False)


def test_slices_keep_their_distance_in_the_scan():
    # An organ in the slices 4 and 6; the prediction is in slice 4 alone.
    true = _volume(2, 3, 4)[:2]
    predicted = true.copy()
    predicted[1] = False
    apart = _measure(predicted, true, slices=[4, 6])
    assert apart.hd95_mm == pytest.approx(10)  # from the far side of slice 6 to that of slice 4
    assert _measure(predicted, true, slices=[4, 5]).hd95_mm == pytest.approx(5)
    assert apart.dice == _measure(predicted, true, slices=[4, 5]).dice


def test_every_metric_of_the_tables_is_a_field_and_finite_without_a_prediction():
    scores = [_measure(_volume(), _volume(2)), _measure(_volume(2), _volume(2))]
    assert all(np.isfinite(metric_value(score, name)) for score in scores for name in METRICS)


def test_the_sign_of_a_volume_error_is_dropped_where_it_is_averaged():
    score = make_score(dice=0.5)
    assert (score.volume_error_ml, metric_value(score, "volume_error_ml")) == (-10, 10)
    assert metric_value(score, "dice") == 0.5


def test_the_tolerance_is_named_and_must_be_one():
    scores = [make_score(), make_score(nsd_tolerance_mm=2.0)]
    assert metric_label("nsd", scores[:1]) == "NSD at 3 mm"
    assert metric_label("nsd", scores[1:]) == "NSD at 2 mm"
    with pytest.raises(ValueError, match=r"one tolerance of NSD, got \[2.0, 3.0\] mm"):
        metric_label("nsd", scores)
