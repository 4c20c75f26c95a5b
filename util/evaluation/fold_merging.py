"""Merge the evaluations of several folds, which must have the same settings."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from util.config.overrides import flatten
from util.config.resume_keys import IGNORED_ON_RESUME
from util.errors import UserError, shorten_list
from util.evaluation import N_FOLDS
from util.evaluation.metrics import VolumeScore
from util.evaluation.report import summarise_scores
from util.evaluation.score_files import Evaluation, find_newest_of_folds, read_evaluation

# Keys and groups that may differ between the trainings of the folds. Of the evaluation's keys each evaluation
# records its own.
IGNORED_IN_TRAINING = {
    *IGNORED_ON_RESUME,
    *("eval_fold", "seed", "supp_idx", "n_part", "test_label", "recipe", "tag"),
}
# Keys and groups that do not affect an evaluation; how the snapshot was trained is compared by itself.
IGNORED_IN_EVALUATION = {
    *(IGNORED_IN_TRAINING - {"evaluation", "adaptation", "supp_idx", "n_part", "test_label"}),
    *("n_steps", "batch_size", "n_shot", "exclude_label", "use_gt", "n_sv", "min_size", "loss", "optim"),
    *("max_iters_per_load", "lr_step_gamma", "task", "phantom", "channels_last", "compile"),
    *("sync_batchnorm", "deterministic"),
    *(
        f"evaluation.{name}"
        for name in ("save_predictions", "original_grid", "report", "slices_per_call", "baselines")
    ),
    *(f"evaluation.{name}" for name in ("all_slices", "every_support")),  # more rows, the same values
}
GROUP_KEYS = ("organ_group", "test_label", "exclude_label")  # in which organ groups of setting II differ
_MAX_LISTED = 6


def merge_groups(runs_dirs: Sequence[Path]) -> tuple[list[VolumeScore], dict[str, Any], list[str]]:
    """Join the newest evaluation of each fold, of one or several organ groups.

    Args:
        runs_dirs: of each group, holding `fold_<k>/evaluation/<number>/`.

    Returns:
        All scores; a summary with their means and settings; and lines that name the files.

    Raises:
        UserError: no fold was evaluated, a file is damaged, or settings differ.
    """
    lines, evaluations = [], []
    for group, runs_dir in enumerate(runs_dirs):
        group_text = f"organ group {group}, " if len(runs_dirs) > 1 else ""
        evaluation_of = {fold: read_evaluation(path) for fold, path in find_newest_of_folds(runs_dir).items()}
        evaluations += evaluation_of.values()
        lines += [f"{group_text}fold {fold}: {_describe_file(e)}" for fold, e in evaluation_of.items()]
        missing = [str(fold) for fold in range(N_FOLDS) if fold not in evaluation_of]
        if missing:
            lines.append(f"{group_text}not evaluated yet: folds {', '.join(missing)}")
    if not evaluations:
        raise UserError(f"{runs_dirs[0]}: holds no evaluation; run bash script/evaluate.sh first")
    scores, summary = merge_evaluations(evaluations, ignored_keys=GROUP_KEYS if len(runs_dirs) > 1 else ())
    protocol = (evaluations[0].summary.get("protocol") or {}).get("description", [])
    return scores, summary, [*lines, *protocol]


def merge_evaluations(
    evaluations: Sequence[Evaluation], *, ignored_keys: Collection[str] = ()
) -> tuple[list[VolumeScore], dict[str, Any]]:
    """Join evaluations that differ in the fold alone.

    Args:
        evaluations: one per fold.
        ignored_keys: further keys of the configuration that may differ.

    Raises:
        UserError: other settings differ; all are named in one line.
    """
    settings = [list_settings(evaluation, ignored_keys) for evaluation in evaluations]
    for evaluation, other in zip(evaluations[1:], settings[1:], strict=True):
        differences = describe_differences(settings[0], other)
        if differences:
            raise UserError(
                f"{evaluation.path}: was not evaluated as {evaluations[0].path} ({differences}); evaluate "
                "these folds with the same settings"
            )
    scores = [score for evaluation in evaluations for score in evaluation.scores]
    summary = {
        **summarise_scores(scores),
        **{name: evaluations[0].summary.get(name) for name in ("config", "training_config", "protocol")},
        "data_fingerprint": evaluations[0].summary.get("data_fingerprint"),
        "snapshot_step": evaluations[0].summary.get("snapshot_step"),
        "folds": [_describe_source(evaluation) for evaluation in evaluations],
    }
    return scores, summary


def list_settings(evaluation: Evaluation, ignored_keys: Collection[str] = ()) -> dict[str, Any]:
    """List what an evaluation's result depends on, the fold apart, by name."""
    summary = evaluation.summary
    config, training = summary.get("config") or {}, summary.get("training_config") or {}
    # Each fold's best snapshot has a step of its own.
    takes_best = config.get("reload_model_path") == "best"
    training_settings = flatten(training, ignored_keys={*IGNORED_IN_TRAINING, *ignored_keys})
    return {
        **dict(flatten(config, ignored_keys={*IGNORED_IN_EVALUATION, *ignored_keys})),
        **{f"training's {name}": value for name, value in training_settings},
        "snapshot_step": None if takes_best else summary.get("snapshot_step"),
        "data_fingerprint": summary.get("data_fingerprint"),
        "nsd_tolerance_mm": sorted({score.nsd_tolerance_mm for score in evaluation.scores}),
    }


def describe_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """List the settings that differ, with both values; empty if none does."""
    names = dict.fromkeys([*first, *second])
    differing = [name for name in names if first.get(name) != second.get(name)]
    texts = [f"{name}={second.get(name)}, not {first.get(name)}" for name in differing]
    return shorten_list(texts, n_max=_MAX_LISTED, separator="; ")


def _describe_file(evaluation: Evaluation) -> str:
    """Describe an evaluation's file and its snapshot."""
    return f"{evaluation.path}, of {evaluation.summary.get('snapshot', 'an unknown snapshot')}"


def _describe_source(evaluation: Evaluation) -> dict[str, Any]:
    summary = evaluation.summary
    names = ("snapshot", "snapshot_step", "supports", "remarks", "commands", "environment")
    config, folds = summary.get("config") or {}, sorted({score.fold for score in evaluation.scores})
    source = {"scores": str(evaluation.path), "folds": folds, **{name: summary.get(name) for name in names}}
    return {**source, "organ_group": config.get("organ_group") if config.get("setting") == 2 else None}
