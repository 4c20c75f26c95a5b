"""A U-Net's and a warped mask's log-odds join the network's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from config_ssl_upload import EvaluationConfig
from dataloaders.warped_masks import WarpedMasks, WarpedSupport
from script.workflows.refinement import MIN_ADVANTAGE, choose_mask, guide, guide_by_mask, guide_job, join


def test_two_segmentations_are_joined_by_their_mean_log_odds():
    network, unet = (np.float32(values) for values in ([0.2, 0.5, 0.9, 1.0], [0.6, 0.1, 0.9, 0.0]))
    odds = np.sqrt([0.2 / 0.8 * 0.6 / 0.4, 0.1 / 0.9, 0.9 / 0.1 * 0.9 / 0.1, 1.0])  # the last: as certain
    for result in (join(network, unet), join(unet, network)):
        np.testing.assert_allclose(result, odds / (1 + odds), atol=1e-4)
        assert result.dtype == np.float32


def test_a_segmentation_without_foreground_is_not_joined():
    found, nothing = np.float32([0.7, 0.1]), np.float32([0.4, 0.5])
    assert join(found, nothing) is join(nothing, found) is found
    assert join(nothing, nothing) is nothing


def test_log_odds_are_added_with_weight_and_offset():
    network, smoothed = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.7, 0.1, 0.5])
    expected = network.logit() + 0.5 * (smoothed.logit() + 2)
    result = guide(network, torch.ones(3), smoothed=smoothed, weight=0.5, offset=2)
    torch.testing.assert_close(result, expected.sigmoid())


def test_without_weight_the_network_decides_alone():
    network = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(2, 4, 5)
    assert guide(network, nothing, smoothed=nothing, weight=0, offset=2) is network


def test_a_network_that_finds_nothing_leaves_the_decision_to_registration():
    network, warped = torch.tensor([0.1, 0.2, 0.5]), torch.tensor([1.0, 0.0, 0.6])
    result = guide(network, warped, smoothed=torch.full((3,), 0.4), weight=1, offset=0)
    torch.testing.assert_close(result, warped)


def test_positions_that_are_certain_stay_finite():
    network, smoothed = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    result = guide(network, torch.zeros(3), smoothed=smoothed, weight=1, offset=0)
    assert result.isfinite().all()
    assert result[0] < 1e-6
    assert result[1] > 1 - 1e-6
    assert result[2].item() == pytest.approx(0.5, abs=1e-3)


SPACING_MM = (5.0, 3.0, 3.0)
IMAGES = torch.zeros(9, 1, 40, 40)  # without contrast: intensities have no say


def _box(first, size=(3, 10, 10)):
    mask = np.zeros((9, 40, 40), np.float32)
    mask[tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))] = 1
    return mask


def _guide(network, mask, **settings):
    options = EvaluationConfig(**settings)
    slices = np.arange(len(network))
    return guide_by_mask(network, mask, IMAGES, slices=slices, spacing_mm=SPACING_MM, options=options)


def test_a_misplaced_mask_is_aligned_before_it_guides():
    organ, misplaced = _box((3, 15, 15)), _box((4, 19, 11))  # by 5, 12 and -12 mm
    network = 1e-3 + 0.998 * organ
    aligned = _guide(network, misplaced, guide_shift_mm=30.0)
    np.testing.assert_allclose(aligned, _guide(network, organ, guide_shift_mm=0.0), atol=1e-6)
    assert np.abs(_guide(network, misplaced, guide_shift_mm=0.0) - aligned).max() > 0.3


def test_a_mask_in_its_place_stays_there():
    organ = _box((3, 15, 15))
    network = 0.02 + 0.9 * organ
    np.testing.assert_array_equal(*(_guide(network, organ, guide_shift_mm=mm) for mm in (0.0, 30.0)))


def test_a_mask_in_other_slices_than_the_job_is_aligned_before_it_is_cropped():
    organ, misplaced = _box((3, 15, 15)), _box((5, 15, 15))  # by two of the job's three slices
    query = SimpleNamespace(
        images=IMAGES, label_map=organ, geometry=SimpleNamespace(spacing_mm=SPACING_MM), scan_id=1
    )
    assignment = SimpleNamespace(slices=np.array([3, 4, 5]))
    job = SimpleNamespace(query=query, support=SimpleNamespace(scan_id=0), label=1, assignment=assignment)
    network = (1e-4 + 0.9998 * organ)[3:6].astype(np.float32)
    results = []
    for mask in (organ, misplaced):
        warped = WarpedMasks({(0, 1): WarpedSupport(None, {1: mask}, None)})
        results.append(guide_job(network, job, warped, EvaluationConfig(guide_shift_mm=30.0)))
    assert results[0].shape == network.shape
    np.testing.assert_allclose(*results, atol=1e-6)


def test_a_network_that_finds_nothing_shifts_nothing():
    mask = _box((4, 19, 11))
    np.testing.assert_array_equal(_guide(np.full_like(mask, 0.4), mask, guide_shift_mm=30.0), mask)


def _choose(network, masks, **settings):
    options = EvaluationConfig(**settings)
    return choose_mask(
        network, masks, IMAGES, slices=np.arange(len(network)), spacing_mm=SPACING_MM, options=options
    )


def test_the_mask_that_agrees_better_with_the_network_is_chosen():
    organ, distant = _box((3, 15, 15)), _box((3, 15, 2))  # by 39 mm, further than alignment reaches
    network = 1e-3 + 0.998 * organ
    for masks in ([organ, distant], [distant, organ]):
        assert _choose(network, masks) is organ


def test_the_first_mask_serves_unless_another_is_clearly_better():
    organ = _box((3, 15, 15))
    network = 0.5 + 0.1 * organ  # log-odds of 0.41 in the organ, 0 around it
    smaller, larger = organ * 0.9, _box((3, 15, 15), (3, 10, 12))  # the mean log-odds, 0.41 and 0.34
    assert MIN_ADVANTAGE > 0.41 - 0.34
    assert _choose(network, [larger, smaller]) is larger
    assert _choose(network, [smaller, larger]) is smaller
    assert _choose(0.5 + 0.3 * organ, [larger, smaller]) is smaller  # 1.39 and 1.16


def test_nothing_is_chosen_without_shifts_or_a_network_that_finds_the_organ():
    organ, distant = _box((3, 15, 15)), _box((3, 15, 2))
    assert _choose(1e-3 + 0.998 * organ, [distant, organ], guide_shift_mm=0.0) is distant
    assert _choose(0.4 * organ, [distant, organ]) is distant


def test_an_empty_mask_gives_way():
    organ = _box((3, 15, 15))
    assert _choose(1e-3 + 0.998 * organ, [np.zeros_like(organ), organ]) is organ
