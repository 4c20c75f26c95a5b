"""Choose the training run to evaluate, and describe those passed over."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.config.training_settings import IGNORED_ON_RESUME
from util.engine.resume import find_changes, read_run_config
from util.engine.runs import (
    BEST,
    SNAPSHOT_FOLDER,
    find_snapshot,
    latest_snapshot_in,
    list_runs,
    require_best_snapshot,
)
from util.engine.snapshots import load_snapshot
from util.errors import UserError

DEFAULT_FOLDS = "overlapping"  # of trainings that recorded none
_MAX_CHANGES = 5


@dataclass(frozen=True)
class TrainingChoice:
    """The snapshot to evaluate.

    Attributes:
        snapshot: its file.
        remarks: a line for each newer run that was passed over.
    """

    snapshot: Path
    remarks: tuple[str, ...] = ()


def choose_training(training_dir: Path, reload_path: str | None, *, folds: str) -> TrainingChoice:
    """Choose the newest run that has a snapshot, preferably with the same folds.

    Args:
        training_dir: folder of the training runs of dataset and fold.
        reload_path: a snapshot or run folder that the user selects; None or `BEST`: choose the run, and take
            its last or best snapshot.
        folds: the kind of folds that is evaluated.

    Raises:
        UserError: no snapshot was found.
    """
    if reload_path not in (None, BEST):
        return TrainingChoice(find_snapshot(training_dir, reload_path))
    runs = list_runs(training_dir)
    usable = [run_dir for run_dir in runs if latest_snapshot_in(run_dir) is not None]
    matching = [run_dir for run_dir in usable if _folds_of(_read_config(run_dir)) == folds]
    if not usable:
        return TrainingChoice(find_snapshot(training_dir, None))  # raises
    selected = (matching or usable)[0]
    newer = runs[: runs.index(selected)]
    remarks = tuple(_describe_newer(run_dir, selected, has_snapshot=run_dir in usable) for run_dir in newer)
    snapshot = require_best_snapshot(selected) if reload_path == BEST else latest_snapshot_in(selected)
    return TrainingChoice(snapshot, remarks)


def read_training_config(snapshot: Path) -> Mapping[str, Any]:
    """Read the configuration of a snapshot's training.

    It is that of the run folder, if the snapshot is in one.

    Raises:
        UserError: neither the run's record nor the snapshot is readable.
    """
    run_dir = snapshot.parent.parent
    if snapshot.parent.name == SNAPSHOT_FOLDER and (run_dir / "config.json").is_file():
        return read_run_config(run_dir)
    return load_snapshot(snapshot).config


def _describe_newer(run_dir: Path, selected: Path, *, has_snapshot: bool) -> str:
    state = "" if has_snapshot else " and unfinished, without a snapshot"
    remark = f"remark: {run_dir} is newer{state}; {selected} is evaluated"
    before, now = _read_config(selected), _read_config(run_dir)
    if not before or not now:
        return f"{remark} (settings not recorded)"
    changes = find_changes({"folds": DEFAULT_FOLDS, **before}, now, ignored_keys=IGNORED_ON_RESUME)
    if not changes:
        return f"{remark}, with the same settings"
    hidden = f" and {len(changes) - _MAX_CHANGES} more" if len(changes) > _MAX_CHANGES else ""
    return f"{remark}. The newer one has other settings ({'; '.join(changes[:_MAX_CHANGES])}{hidden})"


def _read_config(run_dir: Path) -> dict[str, Any]:
    try:
        return read_run_config(run_dir)
    except UserError:
        return {}


def _folds_of(config: Mapping[str, Any]) -> Any:
    return config.get("folds", DEFAULT_FOLDS)
