"""Write the commands that train and evaluate again with the same settings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from util.config.overrides import list_overrides
from util.errors import UserError

_IGNORED_IN_TRAINING = ("reload_model_path", "resume", "resume_changed", "evaluation", "adaptation")
# The network's settings are the snapshot's.
_IGNORED_IN_EVALUATION = ("model", "image_size_px", "resume", "resume_changed")


def list_commands(
    training_config: Mapping[str, Any] | None,
    evaluation_config: Mapping[str, Any],
    *,
    snapshot: Path | None = None,
    defaults_of: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> list[str]:
    """List the commands that train a snapshot and evaluate it.

    Both have the evaluation's paths. The training is left out if its configuration is unusable here.

    Args:
        training_config: the snapshot's configuration; nested plain values. None: no network was evaluated.
        evaluation_config: the evaluation's.
        snapshot: the evaluated file, if any.
        defaults_of: returns the defaults of a configuration, as its dataset, recipe and setting make them.
    """
    steps = [("evaluate", evaluation_config, _IGNORED_IN_EVALUATION, ("method",))]
    if training_config is not None:
        evaluation_config = {**evaluation_config, "reload_model_path": str(snapshot)}
        steps = [
            ("train", {**training_config, "path": evaluation_config["path"]}, _IGNORED_IN_TRAINING, ()),
            ("evaluate", evaluation_config, _IGNORED_IN_EVALUATION, ("reload_model_path",)),
        ]
    commands = []
    for script, values, never, always in steps:
        try:
            defaults = defaults_of(values)
        except (KeyError, UserError):  # trained on data that this evaluation does not know
            continue
        names = [name for name in ("dataset", "eval_fold", *always) if name in values]
        words = list_overrides(values, defaults, always=names, never=never)
        commands.append(f"bash script/{script}.sh {' '.join(words)}")
    return commands
