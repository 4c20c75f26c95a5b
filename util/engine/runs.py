"""Run folders `<kind>/<number>`: find their snapshots and checkpoints."""

import re
from pathlib import Path

from util.errors import UserError
from util.io.files import remove_leftovers

SNAPSHOT_FOLDER, CHECKPOINT_FOLDER = "snapshots", "checkpoints"
# Instead of a snapshot: the one of the best validation of the newest run, or of the run folder before it.
BEST = "best"


def snapshot_path(run_dir: Path, step: int) -> Path:
    """Return the path of a run's snapshot after a number of steps."""
    return run_dir / SNAPSHOT_FOLDER / f"snapshot_{step:06d}.pt"


def best_snapshot_path(run_dir: Path) -> Path:
    """Return the path of a run's snapshot of the best validation."""
    return run_dir / SNAPSHOT_FOLDER / "best.pt"


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Return the path of a run's checkpoint after a number of steps."""
    return run_dir / CHECKPOINT_FOLDER / f"checkpoint_{step:06d}.pt"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """List a run's checkpoints, newest first."""
    folder = run_dir / CHECKPOINT_FOLDER
    paths = folder.iterdir() if folder.is_dir() else ()
    steps = {
        path: int(match[1]) for path in paths if (match := re.fullmatch(r"checkpoint_(\d+)\.pt", path.name))
    }
    return sorted(steps, key=steps.get, reverse=True)


def remove_checkpoints(run_dir: Path) -> None:
    """Remove all checkpoints of a run."""
    for path in list_checkpoints(run_dir):
        path.unlink(missing_ok=True)
    folder = run_dir / CHECKPOINT_FOLDER
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def remove_run_leftovers(run_dir: Path) -> None:
    """Remove the temporary files of a killed training, such as half a checkpoint."""
    for folder in (run_dir, run_dir / SNAPSHOT_FOLDER, run_dir / CHECKPOINT_FOLDER):
        remove_leftovers(folder)


def list_runs(kind_dir: Path) -> list[Path]:
    """List the numbered run folders, newest first."""
    if not kind_dir.is_dir():
        return []
    numbered = [entry for entry in kind_dir.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    return sorted(numbered, key=lambda entry: int(entry.name), reverse=True)


def latest_snapshot_in(run_dir: Path) -> Path | None:
    """Return the snapshot with the most steps in a run folder, or None."""
    folder = run_dir / SNAPSHOT_FOLDER
    paths = folder.iterdir() if folder.is_dir() else ()
    steps = {
        int(match[1]): path for path in paths if (match := re.fullmatch(r"snapshot_(\d+)\.pt", path.name))
    }
    return steps[max(steps)] if steps else None


def list_resumable(training_dir: Path, resume: str) -> list[tuple[Path, bool]]:
    """List the runs that a training may resume, newest first.

    Args:
        training_dir: folder of the training runs of dataset and fold.
        resume: "latest", a run's number, or its folder.

    Returns:
        Each run's folder and whether it is finished; if not, it has checkpoints. Empty if the latest is
        requested and no run has a checkpoint or a snapshot.

    Raises:
        UserError: the requested run does not exist or has neither.
    """
    if resume != "latest":
        run_dir = training_dir / resume if resume.isdecimal() else Path(resume).expanduser()
        if not run_dir.is_dir():
            fault = "is a file, not a run folder" if run_dir.exists() else "no such run folder"
            path = f" ({run_dir})" if resume.isdecimal() else ""
            raise UserError(f"resume={resume}: {fault}{path}; give latest, a number or a folder")
        runs = [run_dir]
    else:
        runs = list_runs(training_dir)
    has_checkpoints = {run_dir: bool(list_checkpoints(run_dir)) for run_dir in runs}
    resumable = [
        (run_dir, not has_some)
        for run_dir, has_some in has_checkpoints.items()
        if has_some or latest_snapshot_in(run_dir) is not None
    ]
    if resumable or resume == "latest":
        return resumable
    raise UserError(f"resume={resume}: {runs[0]} holds no checkpoint; start a new training without resume")


def find_snapshot(training_dir: Path, reload_path: str | None) -> Path:
    """Find the snapshot to use.

    Args:
        training_dir: folder of the training runs of dataset and fold.
        reload_path: a snapshot, a run folder, `BEST` for the best snapshot of the newest run that has a
            snapshot, `<run folder>/best` or `<training_dir>/best`, or None for the newest run's last.

    Raises:
        UserError: no snapshot was found.
    """
    if reload_path not in (None, BEST):
        path = Path(reload_path)
        return path if path.is_file() else _find_below(path)
    for run_dir in list_runs(training_dir):
        snapshot = latest_snapshot_in(run_dir)
        if snapshot is not None:
            return require_best_snapshot(run_dir) if reload_path == BEST else snapshot
    raise UserError(
        f"{training_dir}: holds no trained run; train first (bash script/train.sh with the same dataset, "
        "eval_fold, setting and organ_group) or set reload_model_path"
    )


def find_selected_snapshot(reload_path: str, *, log_dir: Path = Path("runs")) -> Path:
    """Find a selected snapshot, without a dataset and fold.

    Args:
        reload_path: as in `find_snapshot`; `BEST` stands for the only dataset and fold that was trained.
        log_dir: folder of all runs.

    Raises:
        UserError: no snapshot was found, or runs of several datasets or folds have one.
    """
    if reload_path != BEST:
        return find_snapshot(Path(), reload_path)
    folders = sorted(log_dir.glob("*/fold_*/training"))
    trained = [folder for folder in folders if any(map(latest_snapshot_in, list_runs(folder)))]
    if not trained:
        raise UserError(
            f"reload_model_path={BEST}: {log_dir} holds no trained run; train first (bash script/train.sh), "
            "or give a snapshot or a run folder"
        )
    if len(trained) > 1:
        raise UserError(
            f"reload_model_path={BEST}: {log_dir} holds trainings of {len(trained)} datasets or folds; "
            f"select one, such as {trained[0] / BEST}"
        )
    return find_snapshot(trained[0], BEST)


def require_best_snapshot(run_dir: Path) -> Path:
    """Return the path of a run's best snapshot; raises `UserError` if it has none."""
    path = best_snapshot_path(run_dir)
    if not path.is_file():
        raise UserError(
            f"reload_model_path={BEST}: {path} is missing, the run was trained without validate_every; give "
            f"{run_dir} for its last snapshot"
        )
    return path


def _find_below(path: Path) -> Path:
    """Find the last snapshot of a run folder, or the best one of a run if `path` ends in `BEST`."""
    if path.name == BEST and path.parent.is_dir() and not path.exists():
        if (path.parent / SNAPSHOT_FOLDER).is_dir():
            return require_best_snapshot(path.parent)
        return find_snapshot(path.parent, BEST)
    snapshot = latest_snapshot_in(path.parent if path.name == SNAPSHOT_FOLDER else path)
    if snapshot is None:
        exists = path.is_dir()
        fault = f"holds no {SNAPSHOT_FOLDER}/snapshot_<step>.pt" if exists else "no such file or folder"
        raise UserError(f"{path}: {fault}; give a snapshot or a run folder")
    return snapshot
