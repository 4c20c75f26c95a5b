"""What a training says of its losses."""

import pytest

from models.losses import METRIC_PLOTS, METRICS, describe_metrics


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        (0.25, "query to support 0.2500);"),
        (1e-9, "query to support 0.0000);"),
        (0.0, "query to support not trained, as no foreground was predicted);"),
    ],
)
def test_a_line_reports_where_nothing_was_predicted(alignment, expected):
    averages = dict.fromkeys(METRICS, 0.5) | {"alignment_loss": alignment, "empty_predictions": 0.0}
    short, whole = describe_metrics(averages)
    assert expected in whole
    assert short == "loss 0.500, foreground predicted in 100% of episodes"


def test_a_line_reports_in_how_many_episodes_nothing_was_predicted():
    averages = dict.fromkeys(METRICS, 0.5) | {"empty_predictions": 0.041}
    short, whole = describe_metrics(averages)
    assert short == "loss 0.500, foreground predicted in 96% of episodes"
    assert "; no foreground predicted in 4.1% of the episodes; prior masks:" in whole


def test_every_metric_is_plotted_once():
    plotted = [metric for labels in METRIC_PLOTS.values() for metric in labels]
    assert sorted(plotted) == sorted(METRICS)
