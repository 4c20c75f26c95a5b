"""Choose the training to evaluate, and describe how it differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.config.resume_keys import IGNORED_ON_RESUME
from util.engine.resume import find_changes, read_run_config
from util.engine.runs import (
    BEST,
    SNAPSHOT_FOLDER,
    find_snapshot,
    latest_snapshot_in,
    list_runs,
    require_best_snapshot,
)
from util.engine.snapshots import Snapshot, load_snapshot
from util.errors import UserError, shorten_list

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
    listed = shorten_list(changes, n_max=_MAX_CHANGES, separator="; ")
    return f"{remark}. The newer one has other settings ({listed})"


def _read_config(run_dir: Path) -> dict[str, Any]:
    try:
        return read_run_config(run_dir)
    except UserError:
        return {}


def _folds_of(config: Mapping[str, Any]) -> Any:
    return config.get("folds", DEFAULT_FOLDS)


def find_mismatches(
    snapshot: Snapshot,
    requested: Mapping[str, Any],
    held_out: Sequence[int] = (),
    *,
    supports: Mapping[str, int] | None = None,
) -> list[str]:
    """Describe the differences between a snapshot's training and an evaluation.

    Args:
        snapshot: settings that its configuration lacks count as None.
        requested: the settings to compare, among them `dataset`. Other folds are remarked on, not warned of,
            if none of the scans they train on is in `held_out`.
        held_out: ids of the scans to evaluate, on none of which it should have been trained.
        supports: organ -> id of its support scan.

    Returns:
        One line per difference.
    """
    trained = {"folds": DEFAULT_FOLDS, **snapshot.config}
    differing = {name: value for name, value in requested.items() if trained.get(name) != value}
    lines = [
        f"warning: the snapshot was trained with {name}={trained.get(name)}, not {value}"
        for name, value in differing.items()
    ]
    if list(differing) == ["folds"] and not set(held_out).intersection(snapshot.training_ids or ()):
        lines[0] = lines[0].replace("warning", "remark") + "; none of its training scans is a query"
    common = sorted(set(held_out).intersection(snapshot.training_ids or ()))
    if common and "dataset" not in differing:
        names = ", ".join(map(str, common))
        lines.append(
            f"warning: the snapshot was trained on scan(s) {names} of this fold, so scores are too high"
        )
    elif list(differing) == ["eval_fold"] and snapshot.training_ids is None:
        lines[0] += "; its training included these scans, so scores are too high"
    return lines + _find_adapted_queries(snapshot, held_out, supports or {})


def _find_adapted_queries(
    snapshot: Snapshot, held_out: Sequence[int], supports: Mapping[str, int]
) -> list[str]:
    """Warn of queries on whose manual labels the network was adapted."""
    scans = (snapshot.config.get("adapted_to") or {}).get("scans", ())
    adapted = sorted({scan["scan_id"] for scan in scans}.intersection(held_out))
    queries = [scan_id for scan_id in adapted if any(scan_id != support for support in supports.values())]
    if not queries:
        return []
    names = ", ".join(map(str, queries))
    return [
        f"warning: the snapshot was adapted to scan(s) {names} with their labels, which are queries here, so "
        "scores are too high; evaluate it with that support, or take the snapshot before adaptation"
    ]
