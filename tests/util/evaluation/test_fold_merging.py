"""Folds are joined if they differ in the fold alone; otherwise what differs is named."""

import pytest

from tests.util.evaluation.example_scores import make_score
from util.errors import UserError
from util.evaluation.fold_merging import merge_groups
from util.evaluation.report import overall_mean
from util.evaluation.score_files import find_newest_of_folds, write_scores

CONFIG = {
    "dataset": "CHAOST2",
    "eval_fold": 0,
    "n_part": 3,
    "supp_idx": 2,
    "n_steps": 40,
    "test_label": (1, 4),
    "device": "cpu",
    "evaluation": {"guide": "none", "largest_component": False, "baselines": True, "every_support": False},
    "path": {"log_dir": "runs"},
}
TRAINING = {"dataset": "CHAOST2", "eval_fold": 0, "n_steps": 40, "optim": {"lr": 0.1}, "num_workers": 2}


def write_fold(runs_dir, fold, *, number=1, dice=0.5, config=(), training=(), tolerance_mm=3.0, **summary):
    scores = [
        make_score(4 * fold + i, label, dice, fold=fold, nsd_tolerance_mm=tolerance_mm)
        for i in range(3)
        for label in (1, 4)
    ]
    content = {
        "config": {**CONFIG, "eval_fold": fold, **dict(config)},
        "training_config": {**TRAINING, "eval_fold": fold, **dict(training)},
        "snapshot": f"fold_{fold}/snapshot.pt",
        "snapshot_step": 40,
        "data_fingerprint": "abc",
        "support_id": 7,
        **summary,
    }
    write_scores(runs_dir / f"fold_{fold}/evaluation/{number}", scores, content)


def test_the_newest_evaluation_of_each_fold_is_joined(tmp_path):
    write_fold(tmp_path, 0, number=2, dice=0.9)
    write_fold(tmp_path, 0, number=10, dice=0.2, protocol={"description": ["protocol: own", "chunks"]})
    write_fold(tmp_path, 3, dice=0.4)
    assert [path.parent.name for path in find_newest_of_folds(tmp_path).values()] == ["10", "1"]
    scores, summary, lines = merge_groups([tmp_path])
    assert overall_mean(scores) == pytest.approx(0.3)
    path = tmp_path / "fold_0/evaluation/10/scores.json"
    assert lines[0] == f"fold 0: {path}, of fold_0/snapshot.pt"
    assert lines[-3:] == ["not evaluated yet: folds 1, 2, 4", "protocol: own", "chunks"]
    assert summary["means"]["trained"]["chunks"]["dice"]["scans"]["mean"]["n_folds"] == 2


def test_the_summary_holds_settings_and_sources(tmp_path):
    write_fold(tmp_path, 0)
    write_fold(tmp_path, 1, remarks=["note"])
    _, summary, _ = merge_groups([tmp_path])
    assert summary["config"]["n_part"] == 3
    assert summary["training_config"]["optim"] == {"lr": 0.1}
    assert summary["data_fingerprint"] == "abc"
    assert [source["folds"] for source in summary["folds"]] == [[0], [1]]
    assert (summary["folds"][1]["snapshot"], summary["folds"][1]["remarks"]) == (
        "fold_1/snapshot.pt",
        ["note"],
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": {"n_part": 2}}, "n_part=2, not 3"),
        ({"config": {"supp_idx": 0}}, "supp_idx=0, not 2"),
        ({"config": {"test_label": (1,)}}, r"test_label=\[1\], not \[1, 4\]"),
        ({"config": {"evaluation": {**CONFIG["evaluation"], "guide": "registration"}}}, "evaluation.guide="),
        (
            {"config": {"evaluation": {**CONFIG["evaluation"], "largest_component": True}}},
            "evaluation.largest_component=True, not False",
        ),
        ({"training": {"optim": {"lr": 0.2}}}, "training's optim.lr=0.2, not 0.1"),
        ({"training": {"n_steps": 7}}, "training's n_steps=7, not 40"),
        ({"snapshot_step": 20}, "snapshot_step=20, not 40"),
        ({"data_fingerprint": "xyz"}, "data_fingerprint=xyz, not abc"),
        ({"tolerance_mm": 2.0}, r"nsd_tolerance_mm=\[2.0\], not \[3.0\]"),
        ({"config": {"n_part": 2, "supp_idx": 0}}, "n_part=2, not 3; supp_idx=0, not 2"),
        ({"config": {f"key_{i}": i for i in range(8)}}, "key_5=5, not None and 2 more"),
    ],
)
def test_folds_with_other_settings_are_refused_in_one_line(tmp_path, changes, named):
    write_fold(tmp_path, 0)
    write_fold(tmp_path, 1)
    write_fold(tmp_path, 2, **changes)
    with pytest.raises(UserError, match=rf"fold_2/.*was not evaluated as .*fold_0/.*{named}") as caught:
        merge_groups([tmp_path])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"device": "cuda", "n_steps": 7, "path": {"log_dir": "other"}}},
        {"config": {"evaluation": {**CONFIG["evaluation"], "baselines": False, "every_support": True}}},
        {"training": {"num_workers": 0, "seed": 1}},
        {"support_id": 8},
    ],
)
def test_what_affects_no_result_may_differ(tmp_path, changes):
    write_fold(tmp_path, 0)
    write_fold(tmp_path, 1, **changes)
    assert len(merge_groups([tmp_path])[0]) == 12


def test_nothing_to_join_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no evaluation; run bash script/evaluate.sh first"):
        merge_groups([tmp_path])
