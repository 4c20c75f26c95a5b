from pathlib import Path

from util.config.rerun_commands import list_commands
from util.errors import UserError

DEFAULTS = {
    "dataset": "CHAOST2",
    "eval_fold": 0,
    "recipe": "published",
    "n_steps": 100,
    "model": {"encoder": "resnet101"},
    "evaluation": {"guide": "none"},
    "reload_model_path": None,
    "path": {"log_dir": "runs"},
}
SNAPSHOT = Path("runs/CHAOST2/fold_1/training/1/snapshots/snapshot_000005.pt")


def defaults_of(values):
    return {**DEFAULTS, "dataset": values["dataset"]}


def test_both_commands_name_what_was_changed():
    trained = {**DEFAULTS, "eval_fold": 1, "n_steps": 5, "model": {"encoder": "resnet18"}, "recipe": "strong"}
    trained["path"] = {"log_dir": "elsewhere"}
    evaluated = {
        **trained,
        "n_steps": 100,
        "evaluation": {"guide": "registration"},
        "path": {"log_dir": "here"},
    }
    train, evaluate = list_commands(trained, evaluated, snapshot=SNAPSHOT, defaults_of=defaults_of)
    assert train == (
        "bash script/train.sh dataset=CHAOST2 eval_fold=1 recipe=strong n_steps=5 model.encoder=resnet18 "
        "path.log_dir=here"
    )
    assert evaluate == (
        f"bash script/evaluate.sh dataset=CHAOST2 eval_fold=1 reload_model_path={SNAPSHOT} recipe=strong "
        "evaluation.guide=registration path.log_dir=here"
    )


def test_a_training_on_unknown_data_is_left_out():
    def refuse(values):
        if values["dataset"] == "GONE":
            raise UserError("GONE: not known")
        return defaults_of(values)

    for trained in ({**DEFAULTS, "dataset": "GONE"}, {"n_steps": 5}):
        [evaluate] = list_commands(trained, DEFAULTS, snapshot=SNAPSHOT, defaults_of=refuse)
        assert evaluate.startswith("bash script/evaluate.sh dataset=CHAOST2")
