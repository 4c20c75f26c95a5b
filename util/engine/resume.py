"""Find the run to resume, and take over its settings."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from util.config.resume_keys import IGNORED_ON_RESUME, NEW_ON_RESUME
from util.config.settings import merge_values
from util.engine.run_record import JOB_ID, read_job_id
from util.engine.runs import list_resumable
from util.errors import NothingToDo, UserError


def read_run_config(run_dir: Path) -> dict[str, Any]:
    """Read the configuration recorded by a run, as nested plain values.

    Raises:
        UserError: the record is missing or damaged.
    """
    path = run_dir / "config.json"  # sacred's
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error  # strerror: without the path again
        raise UserError(f"{path}: cannot be read ({reason}); start a new training without resume") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a JSON object; start a new training without resume")
    return values


def adopt_values(
    values: Mapping[str, Any], saved: Mapping[str, Any], *, exclude: Collection[str]
) -> dict[str, Any]:
    """Return nested default values, overridden by those of a former run.

    Args:
        values: the defaults; used for keys that the former run lacks.
        saved: of the former run; keys unknown to this version are ignored.
        exclude: top-level keys that keep their defaults.
    """
    adopted = dict(values)
    for name, value in saved.items():
        if name not in values or name in exclude:
            continue
        is_group = isinstance(values[name], Mapping) and isinstance(value, Mapping)
        adopted[name] = adopt_values(values[name], value, exclude=()) if is_group else value
    return adopted


def find_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, ignored_keys: Collection[str], prefix: str = ""
) -> list[str]:
    """List the settings that differ between two configurations of the same training.

    Args:
        before, now: nested plain values. Keys that only one of them has are ignored: they belong to another
            version of the code.
        ignored_keys: top-level keys that may differ.
        prefix: prepended to the keys' names.

    Returns:
        One text per change, such as "optim.lr: 0.001, now 0.002".
    """
    changes = []
    for name, value in before.items():
        if name not in now or name in ignored_keys:
            continue
        if isinstance(value, Mapping) and isinstance(now[name], Mapping):
            changes += find_changes(value, now[name], ignored_keys=(), prefix=f"{prefix}{name}.")
        elif value != now[name]:
            changes.append(f"{prefix}{name}: {value}, now {now[name]}")
    return changes


def choose_former_run(
    training_dir: Path,
    resume: str,
    *,
    settings: Mapping[str, Any],
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    is_requested: bool,
    allows_changes: bool,
) -> Path | None:
    """Find the run to resume; None to start a new training.

    Of several candidates it is the newest with the same settings; in a job restarted by torchrun, only runs
    of that job count. With "latest", runs of another seed are ignored: seeds are trained side by side.

    Args:
        training_dir: folder of the training runs of dataset and fold.
        resume: "latest", a run's number, or its folder.
        settings: of the training, nested plain values.
        complete: fills in settings that the record of an older version may lack.
        is_requested: whether the user requested to resume; otherwise finished runs are ignored.
        allows_changes: whether settings that affect the result may differ from the run's.

    Raises:
        NothingToDo: the run is finished.
        UserError: it does not exist, or settings that affect the result differ from those of all runs.
    """
    refusals = []
    for run_dir, is_finished in list_resumable(training_dir, resume):
        if not is_requested and (is_finished or read_job_id(run_dir) not in (None, JOB_ID)):
            continue
        saved = read_run_config(run_dir)
        try:
            before = complete(saved)
        except UserError as error:
            raise UserError(
                f"{run_dir / 'config.json'}: {error}; start a new training without resume"
            ) from error
        changes = find_changes(before, settings, ignored_keys=IGNORED_ON_RESUME)
        if changes and not allows_changes:
            if resume == "latest" and before.get("seed") != settings.get("seed"):
                continue  # another training rather than a changed one
            refusals.append((run_dir, is_finished, changes))
            continue
        if is_finished:
            raise NothingToDo(f"{run_dir} is finished; nothing to resume")
        return run_dir
    if not refusals or not is_requested:
        return None
    run_dir, is_finished, changes = refusals[0]
    hint = "leave that out, or add resume_changed=True"
    if is_finished:
        hint = "leave resume out to start a new training"
    name = "" if resume == str(run_dir) else f" {run_dir}"
    raise UserError(f"resume={resume}:{name} was trained with {'; '.join(changes)}; {hint}")


def former_settings(
    candidates: Iterable[Path],
    defaults: Mapping[str, Any],
    requested: Mapping[str, Any],
    *,
    with_present_names: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    check: Callable[[Mapping[str, Any]], object],
) -> Mapping[str, Any]:
    """Return the settings of the run to resume, as defaults of the new one.

    Args:
        candidates: runs, newest first. The first that matches the requested values is used, or the newest of
            the same seed if none does.
        defaults: used for keys that runs lack or that are never taken over.
        requested: nested values set by the user.
        with_present_names: renames keys that an earlier version saved.
        check: raises `UserError` for invalid settings.

    Raises:
        UserError: a record is missing or damaged, or holds invalid settings.
    """
    newest = None
    for run_dir in candidates:
        saved = with_present_names(read_run_config(run_dir))
        former = adopt_values(defaults, saved, exclude=NEW_ON_RESUME)
        check(former)
        has_other_seed = requested.get("seed", former["seed"]) != former["seed"]
        if newest is None and not (requested.get("resume") == "latest" and has_other_seed):
            newest = former
        matches = not find_changes(former, merge_values(former, requested), ignored_keys=IGNORED_ON_RESUME)
        if matches or requested.get("resume_changed"):
            return former
    return newest or defaults
