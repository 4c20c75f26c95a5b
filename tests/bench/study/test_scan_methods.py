"""Every row of the comparison comes from the evaluation that its name promises."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import validation
from bench.study import scan_methods
from bench.study.arms import PROFILES
from bench.study.run import parse_arguments
from bench.study.trial import Trial
from script.workflows import evaluation_methods
from script.workflows.networks import make_network
from tests.util.evaluation.example_scores import make_score
from util.engine.snapshots import Snapshot, load_snapshot, save_snapshot

pytestmark = pytest.mark.usefixtures("narrow_encoder")
BASELINES = (
    "registration",
    "registration + intensities",
    "copied support mask",
    "untrained cosine",
    "untrained",
)
TRAINED, UNTRAINED = "snapshot_000004", "untrained"


def _methods(config):
    """Name the methods that an evaluation scores."""
    methods = ["trained"] + ["adapted"] * (config.adaptation.steps > 0)
    alone = []
    if config.evaluation.unet_joins:
        assert config.evaluation.unet_steps == config.adaptation.steps > 0
        alone, methods = methods, [f"{method} + U-Net" for method in methods]
    guided = [f"{method} + registration" for method in methods] * (config.evaluation.guide == "registration")
    assert config.evaluation.intensity_weight > 0
    methods = [name for method in methods for name in (method, f"{method} + intensities")]
    guided = [name for method in guided for name in (method, f"{method} + intensities")]
    unet = ["one-scan U-Net", "one-scan U-Net + registration", "one-scan U-Net + registration + intensities"]
    unet *= config.evaluation.unet_steps == config.adaptation.steps > 0
    return alone + methods + guided + unet + list(BASELINES) * config.evaluation.baselines


@pytest.fixture(name="origins")
def _origins(tmp_path, monkeypatch):
    """Run the comparison with an evaluation that only notes its settings: row -> (settings, method)."""
    return _compare(tmp_path, monkeypatch, scan_methods.score_scan_methods)


def _compare(tmp_path, monkeypatch, score):
    profile = replace(
        PROFILES["chaost2_scan"],
        adaptation_steps=7,
        values={
            "model": {"encoder": "resnet18", "encoder_weights": None, "feature_width": 8},
            "precision": "fp32",
        },
    )
    monkeypatch.setitem(PROFILES, "chaost2_scan", profile)
    config = Trial("chaost2_scan", "strong", 1).config(parse_arguments(["chaost2_scan"]))
    config = config.model_copy(update={"path": config.path.model_copy(update={"log_dir": str(tmp_path)})})
    configs, answers = [], {}

    def evaluate(config, run_dir):
        scores = []
        options = config.evaluation
        protocols = ["chunks"] * options.chunks + ["all_slices"] * options.all_slices
        for method in _methods(config):
            for protocol in protocols[:1] if method in BASELINES[2:] else protocols:
                dice = (len(answers) + 1) / 1000
                shots = options.support_slices if options.join_support == "shots" else 1
                answers[dice] = (Path(config.reload_model_path).stem, shots, method, protocol)
                scores.append(make_score(dice=dice, method=method, protocol=protocol))
        configs.append(config)
        return scores

    monkeypatch.setattr(validation, "evaluate", evaluate)
    monkeypatch.setattr(
        evaluation_methods,
        "calibration_images",
        lambda config: torch.rand(4, 1, 32, 32, generator=torch.manual_seed(1)),
    )
    trained = make_network(config)
    with torch.no_grad():
        next(trained.parameters()).add_(1)
    snapshot = tmp_path / f"{TRAINED}.pt"
    save_snapshot(snapshot, Snapshot(4, trained.state_dict(), {"seed": 1}, {}))
    record = score(config, snapshot)
    assert not any(c.evaluation.save_predictions or c.evaluation.report for c in configs)
    origins = {
        name: {protocol: answers[table["mean"]] for protocol, table in tables.items()}
        for name, tables in record["methods"].items()
    }
    return origins, record, tmp_path, config


def test_rows_come_from_their_snapshot_method_and_protocol(origins):
    rows, record, _, _ = origins
    assert set(rows) == set(scan_methods.LABELS)
    expected = {
        "network": (TRAINED, 1, "trained"),
        "registration guides": (TRAINED, 1, "trained + registration"),
        "adapted": (TRAINED, 1, "adapted"),
        "adapted, registration": (TRAINED, 1, "adapted + registration"),
        "3 shots": (TRAINED, 3, "trained"),
        "adapted, 3 shots": (TRAINED, 3, "adapted"),
        "adapted, registration, 3 shots": (TRAINED, 3, "adapted + registration"),
        "only adapted": (UNTRAINED, 1, "adapted"),
        "only adapted, registration": (UNTRAINED, 1, "adapted + registration"),
        "U-Net joins": (TRAINED, 1, "trained + U-Net + registration"),
        "adapted, U-Net joins": (TRAINED, 1, "adapted + U-Net + registration"),
        "only adapted, U-Net joins": (UNTRAINED, 1, "adapted + U-Net + registration"),
        **{name: (TRAINED, 1, name) for name in (*BASELINES, "one-scan U-Net")},
    }
    expected["registration, intensities"] = expected.pop("registration + intensities")
    guided = [name for name, (*_, method) in expected.items() if method.endswith(" + registration")]
    for name in guided:
        *origin, method = expected[name]
        expected[f"{name}, intensities"] = (*origin, f"{method} + intensities")
    for name, origin in expected.items():
        assert rows[name] == {protocol: (*origin, protocol) for protocol in ("chunks", "all_slices")}
    assert set(record["method_seconds"]) == {"network", "registration guides", "adapted"}


def test_starts_are_compared_by_the_same_rows(tmp_path, monkeypatch):
    rows, _, _, _ = _compare(tmp_path, monkeypatch, scan_methods.score_start)
    expected = {
        "network": "trained",
        "adapted": "adapted",
        "registration guides, intensities": "trained + registration + intensities",
        "U-Net joins, intensities": "trained + U-Net + registration + intensities",
        "adapted, U-Net joins, intensities": "adapted + U-Net + registration + intensities",
    }
    assert tuple(rows) == scan_methods.START_ROWS == tuple(expected)
    for name, method in expected.items():
        assert rows[name] == {p: (TRAINED, 1, method, p) for p in ("chunks", "all_slices")}


def test_the_untrained_network_has_the_weights_before_training(origins):
    _, _, folder, config = origins
    untrained = load_snapshot(folder / f"{UNTRAINED}.pt")
    assert untrained.step == 0
    fresh = make_network(config).state_dict()
    for name, parameter in make_network(config).named_parameters():
        assert torch.equal(untrained.weights[name], parameter), name
    assert any(not torch.equal(untrained.weights[name], fresh[name]) for name in fresh if "running" in name)
