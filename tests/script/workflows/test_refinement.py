"""A warped mask joins the network's log-odds."""

import pytest
import torch

from script.workflows.refinement import guide


def test_log_odds_are_added_with_weight_and_offset():
    network, smoothed = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.7, 0.1, 0.5])
    expected = network.logit() + 0.5 * (smoothed.logit() + 2)
    found = guide(network, torch.ones(3), smoothed=smoothed, weight=0.5, offset=2)
    torch.testing.assert_close(found, expected.sigmoid())


def test_without_weight_the_network_decides_alone():
    network = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(2, 4, 5)
    assert guide(network, nothing, smoothed=nothing, weight=0, offset=2) is network


def test_a_network_that_finds_nothing_leaves_the_decision_to_registration():
    network, warped = torch.tensor([0.1, 0.2, 0.5]), torch.tensor([1.0, 0.0, 0.6])
    found = guide(network, warped, smoothed=torch.full((3,), 0.4), weight=1, offset=0)
    torch.testing.assert_close(found, warped)


def test_positions_that_are_certain_stay_finite():
    network, smoothed = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    found = guide(network, torch.zeros(3), smoothed=smoothed, weight=1, offset=0)
    assert found.isfinite().all()
    assert found[0] < 1e-6
    assert found[1] > 1 - 1e-6
    assert found[2].item() == pytest.approx(0.5, abs=1e-3)
