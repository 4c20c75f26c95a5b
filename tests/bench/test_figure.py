"""The figure of a result shows slices of the run, and never of patients."""

import numpy as np
import pytest

from bench import figure
from config_ssl_upload import dataset_defaults, parse_config
from data.phantom.scans import PhantomSettings, make_phantom
from tests.util.evaluation.example_scores import make_score
from util.config.settings import merge_values, plain_values
from util.errors import UserError
from util.evaluation.predictions import PredictionWriter
from util.evaluation.score_files import write_scores
from util.io.image_io import read_volume

SUPPORT_ID = 2
DICE = {0: 0.7, 1: 0.5, 3: 0.8}  # query id -> Dice of every organ; query 0 has the median


def _config(tmp_path, dataset="PHANTOM"):
    paths = {"path": {dataset: {"data_dir": str(tmp_path / "data")}}}
    return parse_config(merge_values(dataset_defaults(dataset), paths))


def _write_run(tmp_path, config):
    """Write an evaluation run whose predictions are the labels."""
    run_dir, scores = tmp_path / "run", []
    writer = PredictionWriter(run_dir / "predictions" / "chunks")
    for query_id, dice in DICE.items():
        for label, organ in config.test_organs.items():
            scores.append(make_score(query_id, label, dice, organ=organ, support_id=SUPPORT_ID))
            if config.dataset == "PHANTOM":
                truth, geometry = read_volume(config.layout.label_path(query_id))
                volumes = {
                    "slices": np.arange(len(truth)),
                    "probabilities": (truth == label).astype(np.float32),
                }
                writer.add(query_id, geometry, label=label, organ=organ, **volumes)
    summary = {"config": plain_values(config), "snapshot_step": 7, "support_id": SUPPORT_ID}
    write_scores(run_dir, scores, summary)
    return run_dir


def test_the_query_of_median_dice_is_plotted_with_support_ground_truth_and_prediction(tmp_path, monkeypatch):
    config = _config(tmp_path)
    make_phantom(tmp_path / "data", PhantomSettings(image_size_px=48, seed=1), n_scans=10)
    plotted = {}
    draw = figure.draw_slices

    def record(columns, path, **texts):
        plotted.update(columns=columns, **texts)
        draw(columns, path, **texts)

    monkeypatch.setattr(figure, "draw_slices", record)
    path = tmp_path / "phantom.png"
    figure.draw_result(_write_run(tmp_path, config), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plotted["titles"] == [f"{organ}, Dice 0.70" for organ in config.test_organs.values()]
    assert "fold 0, 7 training steps" in plotted["caption"]
    assert "Query: scan 0, mean Dice 0.70; over all 3 queries 0.67" in plotted["caption"]
    support_labels, query_labels = (read_volume(config.layout.label_path(i))[0] for i in (SUPPORT_ID, 0))
    for label, (_, support_mask, _, truth, prediction) in zip(
        config.test_organs, plotted["columns"], strict=True
    ):
        assert support_mask.any()
        assert any(np.array_equal(support_mask, labels == label) for labels in support_labels[:, ::-1])
        assert any(np.array_equal(truth, labels == label) for labels in query_labels[:, ::-1])
        assert np.array_equal(prediction, truth)


def test_runs_of_other_datasets_are_refused(tmp_path):
    run_dir = _write_run(tmp_path, _config(tmp_path, "CHAOST2"))
    with pytest.raises(UserError, match="must be a run of PHANTOM"):
        figure.draw_result(run_dir, tmp_path / "chaos.png")
    assert not (tmp_path / "chaos.png").exists()
