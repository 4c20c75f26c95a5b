"""Which validation was the best."""

import math

import pytest

from util.engine.checkpoint_manager import VALIDATION_METRIC, find_best_step


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([], None),
        ([0.0], 10),
        ([0.2, 0.5, 0.4], 20),
        ([0.2, 0.5, 0.5], 20),
        ([math.nan, 0.1], 20),
        ([math.nan], None),
    ],
)
def test_the_best_step_is_the_first_of_the_highest_dice(values, step):
    steps = [10 * (i + 1) for i in range(len(values))]
    assert find_best_step({VALIDATION_METRIC: {"steps": steps, "values": values}}) == step


def test_a_training_without_validation_has_no_best_step():
    assert find_best_step({"loss": {"steps": [1], "values": [0.5]}}) is None
