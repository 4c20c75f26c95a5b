"""What a training says of its losses."""

import pytest

from models.losses import METRICS, describe_metrics


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        (0.25, "alignment 0.2500)"),
        (1e-9, "alignment 0.0000)"),
        (0.0, "alignment none, as no query got a target)"),
    ],
)
def test_a_line_says_where_nothing_was_predicted(alignment, expected):
    averages = dict.fromkeys(METRICS, 0.5) | {"alignment_loss": alignment}
    short, whole = describe_metrics(averages)
    assert expected in whole
    assert short == "loss 0.500, prior fg 0.500 bg 0.500"
