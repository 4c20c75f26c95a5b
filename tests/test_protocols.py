"""Protocols, supports and organ groups from the command line to the tables, on a tiny phantom."""

import csv
import json
from importlib.util import find_spec

import pytest

import training
import validation
from dataloaders.warped_masks import WarpedMasks
from script.workflows import unet_training
from tests.bad_inputs import QUICK, evaluate
from tests.test_bad_input import without
from util.config.command_line import run_command_line
from util.engine.runs import list_runs

pytestmark = pytest.mark.usefixtures("narrow_encoder")

NO_REPORT = "evaluation.report=False"


def read_evaluation(workspace):
    """Return the rows and the summary of the newest evaluation of fold 0."""
    run_dir = list_runs(workspace.root / "runs/PHANTOM/fold_0/evaluation")[0]
    with (run_dir / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((run_dir / "scores.json").read_text())["summary"]


def triples(rows):
    return {(row["support_id"], row["query_id"], row["label"]) for row in rows}


def test_each_organ_has_the_nearest_support_that_shows_it(workspace, capsys):
    workspace.change("label", 2, by=without(1, keep=2))
    capsys.readouterr()
    assert evaluate(*workspace.words, *QUICK, "test_label=[1, 4]") == 0
    printed = capsys.readouterr().out
    assert "support scans: 1 for liver; 2 for spleen\n" in printed
    line = "liver: the support is scan 1 (position 1), because scan 2 (position 2) shows it in 2 slices"
    assert printed.count(line) == 1
    rows, summary = read_evaluation(workspace)
    expected = {("1", "0", "1"), ("1", "2", "1"), ("2", "0", "4"), ("2", "1", "4")}
    assert triples(rows) == expected
    assert summary["supports"] == {"liver": 1, "spleen": 2}


def test_an_organ_without_a_support_is_skipped_with_one_remark(workspace, capsys):
    workspace.change("label", 0, 1, 2, by=without(1))
    assert evaluate(*workspace.words, *QUICK, "test_label=[1, 4]") == 0
    assert capsys.readouterr().out.count("liver: skipped in this fold, as no scan that may be its") == 1
    rows, _ = read_evaluation(workspace)
    assert {row["organ"] for row in rows} == {"spleen"}


def test_whole_volumes_of_disjoint_folds_make_every_scan_a_query_once(workspace, capsys, monkeypatch):
    without_masks = WarpedMasks({})  # registering takes seconds
    monkeypatch.setattr(validation, "warp_supports", lambda jobs, **options: without_masks)
    assert evaluate(*workspace.words, "protocol=whole_volume", "test_label=[1]", NO_REPORT) == 0
    printed = capsys.readouterr().out
    rows, summary = read_evaluation(workspace)
    assert summary["protocol"]["name"] == "whole_volume"
    assert "\n".join(summary["protocol"]["description"]) in printed
    assert {row["protocol"] for row in rows} == {"all_slices"}
    assert {row["method"] for row in rows} >= {"trained", "copied support mask", "untrained", "registration"}
    # Scans 2 and later follow fold 0 of ten scans; the training held out 0, 1 and 2.
    assert triples(rows) == {("4", "0", "1"), ("4", "1", "1")}
    assert "remark: the snapshot was trained with folds=overlapping, not disjoint; none of its" in printed
    assert printed.count("folds=overlapping, not disjoint") == 1


def test_what_differs_from_the_training_is_printed_once(workspace, capsys):
    words = [*workspace.words, *QUICK, "eval_fold=1", workspace.reload]
    assert evaluate(*words) == 0
    printed = capsys.readouterr().out
    assert printed.count("warning: the snapshot was trained with eval_fold=0, not 1") == 1
    assert printed.count("warning: the snapshot was trained on scan(s) 3, 4 of this fold") == 1


def test_data_folders_that_are_not_set_are_the_trainings(workspace, capsys):
    words = [word for word in workspace.words if not word.startswith(("path.PHANTOM", "phantom."))]
    capsys.readouterr()
    assert evaluate(*words, *QUICK) == 0
    printed = capsys.readouterr().out
    trained = json.loads((workspace.runs / "1/config.json").read_text())["path"]["PHANTOM"]["data_dir"]
    assert f"remark: path.PHANTOM.data_dir={trained}, as in the training" in printed
    assert read_evaluation(workspace)[1]["config"]["path"]["PHANTOM"]["data_dir"] == trained


def test_data_folders_that_are_set_win_over_the_trainings(workspace, capsys):
    assert evaluate(*workspace.words, *QUICK) == 0
    assert "as in the training" not in capsys.readouterr().out
    assert read_evaluation(workspace)[1]["config"]["path"]["PHANTOM"]["data_dir"] == str(
        workspace.root / "data"
    )


def test_the_groups_of_setting_2_are_joined_in_one_table(overrides_for, tmp_path, capsys):
    words = [*overrides_for(tmp_path), "setting=2", "tag=joint"]
    quick = [*words, *QUICK[:-1], "evaluation.save_predictions=False"]
    for group in range(2):
        assert run_command_line(training.experiment, [*words, f"organ_group={group}", "n_steps=1"]) == 0
        assert run_command_line(validation.experiment, [*quick, f"organ_group={group}"]) == 0
    capsys.readouterr()
    assert run_command_line(validation.experiment, ["summarise", *words]) == 0
    printed = capsys.readouterr().out
    for group in range(2):
        runs = tmp_path / f"PHANTOM_setting2_group{group}-joint/fold_0"
        sources = f"{runs}/evaluation/1/scores.json, of {runs}/training/1/snapshots/"
        assert f"organ group {group}, fold 0: {sources}" in printed
        assert f"organ group {group}, not evaluated yet: folds 1, 2, 3, 4" in printed
    means = json.loads((tmp_path / "PHANTOM_setting2-joint/summary/scores.json").read_text())["summary"][
        "means"
    ]
    organs = ["liver", "right kidney", "left kidney", "spleen"]
    assert list(means["trained"]["chunks"]["dice"]["organs"]) == organs
    assert run_command_line(validation.experiment, ["summarise", *words, "organ_group=1", NO_REPORT]) == 0
    capsys.readouterr()
    path = tmp_path / "PHANTOM_setting2_group1-joint/summary/scores.json"
    means = json.loads(path.read_text())["summary"]["means"]
    assert list(means["trained"]["chunks"]["dice"]["organs"]) == ["right kidney", "left kidney"]


def test_registration_alone_needs_no_training(overrides_for, tmp_path, capsys):
    words = [*overrides_for(tmp_path)[1:], *QUICK, "method=registration"]
    if find_spec("monai"):
        words.append("evaluation.unet_steps=2")
    assert evaluate(*words, "evaluation.largest_component=True", "evaluation.report=True") == 0
    assert "registration alone, no network\n" in capsys.readouterr().out
    [run_dir] = list_runs(tmp_path / "PHANTOM/fold_0/evaluation")
    scores = json.loads((run_dir / "scores.json").read_text())
    baseline = ["one-scan U-Net"] if find_spec("monai") else []
    assert {score["method"] for score in scores["scores"]} == {"registration", *baseline}
    assert scores["summary"]["means"]["registration"]["chunks"]["dice"]["mean"] > 0.3
    assert scores["summary"].get("snapshot") is None
    [command] = scores["summary"]["commands"]
    assert command.startswith("bash script/evaluate.sh ")
    assert "method=registration" in command.split()
    assert len(list((run_dir / "predictions/chunks").glob("*_liver.nii.gz"))) == 2
    assert "registration" in (run_dir / "report.html").read_text()


def test_a_unet_without_monai_is_refused_before_the_run(overrides_for, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(unet_training, "find_spec", lambda name: None)
    words = [*overrides_for(tmp_path)[1:], "method=registration", "evaluation.unet_steps=2"]
    assert evaluate(*words) == 2
    assert "monai is not installed; run pip install -r requirements.txt" in capsys.readouterr().err
    assert not (tmp_path / "PHANTOM").exists()


def test_a_unet_that_is_not_trained_cannot_join(overrides_for, tmp_path, capsys):
    words = [*overrides_for(tmp_path)[1:], "method=registration", "evaluation.unet_joins=True"]
    assert evaluate(*words) == 2
    error = capsys.readouterr().err
    assert "evaluation.unet_joins=True: no U-Net is trained; set evaluation.unet_steps" in error


def test_registration_alone_refuses_a_network(overrides_for, tmp_path, capsys):
    words = [*overrides_for(tmp_path)[1:], "method=registration", f"reload_model_path={tmp_path}"]
    assert evaluate(*words) == 2
    assert "method=registration: has no network" in capsys.readouterr().err
