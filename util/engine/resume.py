"""Go on with a training under the settings that it began with."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from util.config.settings import merge_values
from util.config.training_settings import FREE_ON_RESUME, NEW_ON_RESUME
from util.engine.run_record import JOB, job_of
from util.engine.runs import list_resumable
from util.errors import NothingToDo, UserError


def read_run_config(run_dir: Path) -> dict[str, Any]:
    """Read the configuration that a run's record keeps, as nested plain values.

    Raises:
        UserError: the record is missing or damaged.
    """
    path = run_dir / "config.json"  # sacred's
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error  # strerror: without the path again
        raise UserError(f"{path}: cannot be read ({reason}); train anew without resume") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold keys and values; train anew without resume")
    return values


def adopt(values: Mapping[str, Any], saved: Mapping[str, Any], *, but: Collection[str]) -> dict[str, Any]:
    """Return nested values with those of a former run in their places.

    Args:
        values: the defaults; keys that the former run did not have keep them.
        saved: of the former run; keys that there are no more are left out.
        but: top-level keys that keep the defaults.
    """
    adopted = dict(values)
    for name, value in saved.items():
        if name not in values or name in but:
            continue
        is_group = isinstance(values[name], Mapping) and isinstance(value, Mapping)
        adopted[name] = adopt(values[name], value, but=()) if is_group else value
    return adopted


def find_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, free: Collection[str], prefix: str = ""
) -> list[str]:
    """List the settings that differ between two configurations of the same training.

    Args:
        before, now: nested plain values. A key that only one of them has is passed over: it is of another
            version of the code.
        free: top-level keys that may differ.
        prefix: of the keys' names.

    Returns:
        A text for each, such as "optim.lr: 0.001, now 0.002".
    """
    changes = []
    for name, value in before.items():
        if name not in now or name in free:
            continue
        if isinstance(value, Mapping) and isinstance(now[name], Mapping):
            changes += find_changes(value, now[name], free=(), prefix=f"{prefix}{name}.")
        elif value != now[name]:
            changes.append(f"{prefix}{name}: {value}, now {now[name]}")
    return changes


def choose_former_run(
    training_dir: Path,
    resume: str,
    *,
    settings: Mapping[str, Any],
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    is_asked_for: bool,
    allows_changes: bool,
) -> Path | None:
    """Find the run that a training goes on from; None where it begins anew.

    Of several it is the newest of the same settings, and for a job that torchrun started again one of that
    job. The latest of another seed is none: seeds are trained side by side.

    Args:
        training_dir: where the training runs of dataset and fold lie.
        resume: "latest", a run's number, or its folder.
        settings: of the training, nested plain values.
        complete: fills in what a run's record, of an older version, may lack.
        is_asked_for: whether the user asks for it; otherwise a finished run is of no concern.
        allows_changes: whether settings that change the result may differ from the run's.

    Raises:
        NothingToDo: that run is finished.
        UserError: it is not there, or the settings differ from those of all runs in what changes the result.
    """
    refusals = []
    for run_dir, is_finished in list_resumable(training_dir, resume):
        if not is_asked_for and (is_finished or job_of(run_dir) not in (None, JOB)):
            continue
        saved = read_run_config(run_dir)
        try:
            before = complete(saved)
        except UserError as error:
            raise UserError(f"{run_dir / 'config.json'}: {error}; train anew without resume") from error
        changes = find_changes(before, settings, free=FREE_ON_RESUME)
        if changes and not allows_changes:
            if resume == "latest" and before.get("seed") != settings.get("seed"):
                continue  # another training rather than this one changed
            refusals.append((run_dir, is_finished, changes))
            continue
        if is_finished:
            raise NothingToDo(f"{run_dir} is finished; there is nothing to go on with")
        return run_dir
    if not refusals or not is_asked_for:
        return None
    run_dir, is_finished, changes = refusals[0]
    way_out = "leave that out, or add resume_changed=True"
    if is_finished:
        way_out = "leave resume out to train anew"
    place = "" if resume == str(run_dir) else f" {run_dir}"
    raise UserError(f"resume={resume}:{place} was trained with {'; '.join(changes)}; {way_out}")


def former_settings(
    candidates: Iterable[Path],
    defaults: Mapping[str, Any],
    asked: Mapping[str, Any],
    *,
    with_present_names: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    check: Callable[[Mapping[str, Any]], object],
) -> Mapping[str, Any]:
    """Return the defaults of a training that goes on: its former settings.

    Args:
        candidates: runs, the newest first. The first that agrees with what is asked for is taken, and the
            newest of the same seed where none does.
        defaults: for keys that runs do not have, and for those that are always new.
        asked: nested values that the user set.
        with_present_names: renames keys that an earlier version saved.
        check: raises `UserError` for settings that cannot be.

    Raises:
        UserError: a record is missing or damaged, or a setting in it cannot be.
    """
    newest = None
    for run_dir in candidates:
        saved = with_present_names(read_run_config(run_dir))
        former = adopt(defaults, saved, but=NEW_ON_RESUME)
        check(former)
        is_another = asked.get("resume") == "latest" and asked.get("seed", former["seed"]) != former["seed"]
        if newest is None and not is_another:
            newest = former
        agrees = not find_changes(former, merge_values(former, asked), free=FREE_ON_RESUME)
        if agrees or asked.get("resume_changed"):
            return former
    return newest or defaults
