"""Scans without labels train; folds and evaluation count the labelled ones."""

import csv
import shutil

import pytest

import training
import validation
from config_ssl_upload import dataset_defaults, parse_config
from script.workflows.training_episodes import make_training_episodes
from util.config.command_line import run_command_line
from util.config.settings import merge_values

pytestmark = pytest.mark.usefixtures("narrow_encoder")

WORDS = (
    *("dataset=CHAOST2", "n_sv=60", "min_size=60", "model.encoder=resnet18", "model.encoder_weights=None"),
    *("model.feature_width=8", "n_steps=2", "num_workers=0", "device=cpu"),
    *("evaluation.all_slices=False", "evaluation.every_support=False", "evaluation.baselines=False"),
    "evaluation.report=False",
)


@pytest.fixture(scope="module", name="template")
def _template(phantom_dir, tmp_path_factory):
    """The tiny phantom as CHAOST2, with its supervoxels, which depend on images alone."""
    root = tmp_path_factory.mktemp("unlabelled") / "all"
    [source] = [path.parent for path in phantom_dir.glob("*/image_0.nii.gz")]
    shutil.copytree(source, root / "chaos_MR_T2_normalized")
    shutil.copytree(phantom_dir / "supervoxels_60", root / "supervoxels_60")
    return root


def _without(template, tmp_path, unlabelled):
    shutil.copytree(template, tmp_path / "data")
    for scan_id in unlabelled:
        (tmp_path / f"data/chaos_MR_T2_normalized/label_{scan_id}.nii.gz").unlink()
    return [*WORDS, f"path.CHAOST2.data_dir={tmp_path / 'data'}", f"path.log_dir={tmp_path / 'runs'}"]


def _config(tmp_path, **changes):
    paths = {"n_sv": 60, "min_size": 60, "path": {"CHAOST2": {"data_dir": str(tmp_path / "data")}}}
    return parse_config(merge_values(merge_values(dataset_defaults("CHAOST2"), paths), changes))


def test_six_labelled_scans_make_the_folds_and_four_others_train(template, tmp_path, capsys):
    words = _without(template, tmp_path, (1, 4, 5, 8))
    assert run_command_line(training.experiment, words) == 0
    printed = capsys.readouterr().out
    assert "remark: 4 scan(s) without labels, which no fold evaluates: 1, 4, 5, 8" in printed
    assert "remark: supp_idx=2: the fold holds 2 scans, the last one is the support" in printed
    assert "targets in 8 scans" in printed
    assert run_command_line(validation.experiment, words) == 0
    with (tmp_path / "runs/CHAOST2/fold_0/evaluation/1/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["support_id"], row["query_id"]) for row in rows} == {("2", "0")}


def test_a_training_that_saw_scans_of_the_present_fold_is_reported(template, tmp_path, capsys):
    words = _without(template, tmp_path, ())
    assert run_command_line(training.experiment, words) == 0  # holds out 0, 1 and 2
    for scan_id in (0, 1):
        (tmp_path / f"data/chaos_MR_T2_normalized/label_{scan_id}.nii.gz").unlink()
    capsys.readouterr()
    assert run_command_line(validation.experiment, words) == 0  # evaluates 2 and 3
    printed = capsys.readouterr().out
    assert "warning: the snapshot was trained on scan(s) 3 of this fold, so scores are too high" in printed
    assert "warning: the volumes changed since the training" in printed


@pytest.mark.filterwarnings("ignore::util.remarks.Remark")
def test_scans_without_labels_do_not_train_where_labels_decide(template, tmp_path):
    _without(template, tmp_path, (1, 4, 5, 8))
    everything = make_training_episodes(_config(tmp_path))
    assert {int(everything[i]["scan_id"]) for i in range(80)} == {1, 3, 4, 5, 6, 7, 8, 9}
    for changes in ({"setting": 2, "task": {"exclude_rule": "all"}}, {"use_gt": True, "test_label": [1]}):
        dataset = make_training_episodes(_config(tmp_path, **changes))
        assert {int(dataset[i]["scan_id"]) for i in range(40)} <= {3, 6, 7, 9}


def test_one_annotated_scan_is_enough_to_train(template, tmp_path, capsys):
    words = _without(template, tmp_path, range(1, 10))
    assert run_command_line(training.experiment, words) == 0
    printed = capsys.readouterr().out
    assert "scans train: fewer than 5 have labels, which only evaluation needs" in printed
    assert "targets in 10 scans" in printed
    assert run_command_line(validation.experiment, words) == 2
    assert (
        "evaluation's 5 folds need at least 5 scans with labels, got 1; annotate more"
        in capsys.readouterr().err
    )


def test_further_folds_of_too_few_labelled_scans_are_no_failure(template, tmp_path, capsys):
    words = _without(template, tmp_path, range(1, 10))
    assert run_command_line(training.experiment, [*words, "eval_fold=1"]) == 0
    assert (
        "eval_fold=1: 1 labelled scans make no folds; eval_fold=0 trains on all scans"
        in capsys.readouterr().out
    )
    assert not (tmp_path / "runs/CHAOST2/fold_1/training/1").exists()


def test_a_support_that_evaluation_would_refuse_ends_a_training_before_it_starts(template, tmp_path, capsys):
    words = _without(template, tmp_path, ())
    for position, message in (
        (3, "supp_idx=3: the fold holds 3 scans"),
        (9, "supp_idx=9: the fold holds 3 scans"),
    ):
        assert run_command_line(training.experiment, [*words, f"supp_idx={position}"]) == 2
        assert message in capsys.readouterr().err
    assert run_command_line(training.experiment, [*words, "n_part=30"]) == 2
    assert "label_2.nii.gz: the support must show an organ of test_label (liver, " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("run.json"))
