"""Checkpoints: everything needed to resume a training bit for bit.

They hold tensors and plain values, no code, and no random state: random numbers depend only on the seed and
the step or episode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from util.engine.runs import checkpoint_path, list_checkpoints
from util.engine.snapshots import check_config
from util.errors import UserError
from util.io.loaded_values import check, check_plain, check_tensor, check_tensors, check_whole
from util.io.tensor_files import read_tensors, write_tensors

FORMAT = 2
# Integer buffers; all other tensors of a network are float32.
_COUNTERS = "num_batches_tracked"
_NUMBERS = {"lr", "momentum", "dampening", "weight_decay", "eps"}
MAX_CHECKPOINTS = 2  # the newest, and the one before in case that is damaged


@dataclass(frozen=True)
class Checkpoint:
    """A training after some of its steps; field names are those of the file.

    Attributes:
        step: steps done.
        config: the training's configuration, plain values.
        weights: the network's state dict, from rank 0.
        optimizer: the optimiser's state dict.
        average: state dict of the averaged network and number of updates; None without an average.
        of_ranks: state of each rank: the network's `buffers`, and the sums of the `meter`.
        history: logged values, metric -> `{"steps": [...], "values": [...]}`.
        n_skipped: skipped steps.
        origin: plain values of `Provenance`.
    """

    step: int
    config: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    average: Mapping[str, Any] | None
    of_ranks: Sequence[Mapping[str, Any]]
    history: Mapping[str, Mapping[str, list]]
    n_skipped: int
    origin: Mapping[str, Any]


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically, and remove all but the previous one.

    Raises:
        UserError: it cannot be written; existing checkpoints are untouched.
    """
    path = checkpoint_path(run_dir, checkpoint.step)
    content = {entry.name: getattr(checkpoint, entry.name) for entry in fields(Checkpoint)}
    write_tensors(path, {"format": FORMAT, "kind": "checkpoint", **content})
    for old in list_checkpoints(run_dir)[MAX_CHECKPOINTS:]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Load and validate a checkpoint on the CPU, without executing code.

    Raises:
        UserError: it is missing, damaged, of another format or not a checkpoint; or a value is invalid, such
            as a non-finite weight. The field is named.
    """
    content = read_tensors(path, kind="checkpoint")
    if not isinstance(content, Mapping) or content.get("kind") != "checkpoint":
        raise UserError(f"{path}: not a training checkpoint; give one written by training")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path}: checkpoint format {content.get('format')}, this version reads {FORMAT}; resume with "
            "the version that wrote it, or train again"
        )
    missing = [entry.name for entry in fields(Checkpoint) if entry.name not in content]
    if missing:
        raise UserError(f"{path}: not a training checkpoint (no {missing[0]}); use an older one")
    checkpoint = Checkpoint(**{entry.name: content[entry.name] for entry in fields(Checkpoint)})
    _check_values(path, checkpoint)
    return checkpoint


def _check_values(path: Path, checkpoint: Checkpoint) -> None:
    """Reject values with which resuming would fail, or silently give wrong results."""
    for name in ("step", "n_skipped"):
        check_whole(path, getattr(checkpoint, name), field=name)
    check_config(path, checkpoint.config)
    weights = checkpoint.weights
    _check_weights(path, weights, like=weights, field="weights")
    _check_optimizer(path, checkpoint.optimizer, like=weights)
    average = checkpoint.average
    if average is not None:
        _check_keys(path, average, {"weights", "n_updates"}, field="average")
        _check_weights(path, average["weights"], like=weights, field="average.weights")
        check_whole(path, average["n_updates"], field="average.n_updates")
    of_ranks = checkpoint.of_ranks
    is_list = isinstance(of_ranks, list | tuple) and len(of_ranks) > 0
    check(path, is_list, field="of_ranks", rule="be a list of the ranks' values", value=of_ranks)
    for rank, state in enumerate(of_ranks):
        _check_rank(path, state, like=weights, field=f"of_ranks[{rank}]", is_averaged=average is not None)
    _check_history(path, checkpoint.history)
    _check_origin(path, checkpoint.origin)


def _check_origin(path: Path, origin: Any) -> None:
    _check_keys(path, origin, {"data", "environment"}, field="origin")
    data, environment = origin["data"], origin["environment"]
    is_hash = data is None or isinstance(data, str)
    check(path, is_hash, field="origin.data", rule="be a hash or None", value=data)
    is_mapping = isinstance(environment, Mapping)
    check(path, is_mapping, field="origin.environment", rule="be names and values", value=environment)
    for name, value in environment.items():
        is_plain = isinstance(name, str) and type(value) in (str, int)
        check(path, is_plain, field="origin.environment", rule="be strings and whole numbers", value=value)


def _check_weights(path: Path, named: Any, *, like: Mapping[str, Any], field: str) -> None:
    """Check that tensors are (some of) those of a network."""
    check_tensors(path, named, field=field)
    for name, tensor in named.items():
        dtype = torch.int64 if name.endswith(_COUNTERS) else torch.float32
        fits = name in like and tensor.dtype == dtype and tensor.shape == like[name].shape
        if not fits:
            raise UserError(
                f"{path}: {field}.{name} must be {dtype} in the network's shape, got {tensor.dtype} "
                f"{tuple(tensor.shape)}; use another file"
            )


def _check_optimizer(path: Path, optimizer: Any, *, like: Mapping[str, torch.Tensor]) -> None:
    _check_keys(path, optimizer, {"state", "param_groups"}, field="optimizer")
    _check_groups(path, optimizer["param_groups"])
    shapes = {tensor.shape for tensor in like.values()} | {torch.Size()}
    state = optimizer["state"]
    check(path, isinstance(state, Mapping), field="optimizer.state", rule="be a mapping", value=state)
    for number, entry in state.items():
        check_whole(path, number, field="optimizer.state")
        field = f"optimizer.state.{number}"
        check(path, isinstance(entry, Mapping), field=field, rule="be a mapping", value=entry)
        tensors = {name: value for name, value in entry.items() if isinstance(value, torch.Tensor)}
        check_tensors(path, tensors, field=field)
        fit = all(tensor.dtype == torch.float32 and tensor.shape in shapes for tensor in tensors.values())
        check(path, fit, field=field, rule="be like the network's parameters", value=tensors)
        non_tensors = {name: value for name, value in entry.items() if name not in tensors}
        is_empty = all(value is None for value in non_tensors.values())  # SGD without momentum
        check(path, is_empty, field=field, rule="hold tensors", value=non_tensors)


def _check_groups(path: Path, groups: Any) -> None:
    """Check the types of the optimiser's settings."""
    field = "optimizer.param_groups"
    is_list = isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups)
    check(path, is_list, field=field, rule="be a list of settings", value=groups)
    check_plain(path, groups, field=field)
    for name, value in [(str(name), value) for group in groups for name, value in group.items()]:
        if name in _NUMBERS:
            is_right = type(value) in (int, float)
        elif name in ("params", "betas"):
            is_right = isinstance(value, list | tuple) and all(type(item) in (int, float) for item in value)
        else:
            is_right = value is None or isinstance(value, bool)
        check(path, is_right, field=f"{field}.{name}", rule="be of its type", value=value)


def _check_rank(
    path: Path, state: Any, *, like: Mapping[str, torch.Tensor], field: str, is_averaged: bool
) -> None:
    averaged = {"averaged_buffers"} if is_averaged else set()
    _check_keys(path, state, {"buffers", "meter"} | averaged, field=field)
    for name in sorted({"buffers"} | averaged):
        _check_weights(path, state[name], like=like, field=f"{field}.{name}")
    meter = state["meter"]
    _check_keys(path, meter, {"sum", "count"}, field=f"{field}.meter")
    check_whole(path, meter["count"], field=f"{field}.meter.count")
    is_empty = meter["sum"] is None
    is_consistent = is_empty == (meter["count"] == 0)
    check(path, is_consistent, field=f"{field}.meter", rule="hold sums of the steps counted", value=meter)
    if not is_empty:
        # They may include the loss of a skipped step.
        check_tensor(path, meter["sum"], field=f"{field}.meter.sum", finite=False)
        is_row = meter["sum"].dim() == 1 and meter["sum"].dtype == torch.float32
        check(path, is_row, field=f"{field}.meter.sum", rule="be a row of float32", value=meter["sum"])


def _check_history(path: Path, history: Any) -> None:
    check(path, isinstance(history, Mapping), field="history", rule="be metrics", value=history)
    for name, metric in history.items():
        field = f"history.{name}"
        _check_keys(path, metric, {"steps", "values"}, field=field)
        steps, values = metric["steps"], metric["values"]
        are_lists = isinstance(steps, list) and isinstance(values, list) and len(steps) == len(values)
        check(path, are_lists, field=field, rule="be steps and as many values", value=metric)
        check(path, isinstance(name, str), field="history", rule="have strings as names", value=name)
        for step in steps:
            check_whole(path, step, field=f"{field}.steps")
        for value in values:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            check(path, is_number, field=f"{field}.values", rule="be numbers", value=value)


def _check_keys(path: Path, value: Any, keys: set[str], *, field: str) -> None:
    has_keys = isinstance(value, Mapping) and set(value) == keys
    rule = f"hold {', '.join(sorted(keys))}"
    check(path, has_keys, field=field, rule=rule, value=value)


def newest_checkpoint(run_dir: Path) -> tuple[Checkpoint, list[str]]:
    """Load the newest readable checkpoint of a run.

    Returns:
        The checkpoint, and a warning for each unreadable newer one.

    Raises:
        UserError: the run has no readable checkpoint.
    """
    remarks: list[str] = []
    for path in list_checkpoints(run_dir):
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            remarks.append(f"warning: {error}")
            continue
        if remarks:
            remarks.append(f"resuming from {path}")
        return checkpoint, remarks
    reason = f" that can be read ({remarks[0].removeprefix('warning: ')})" if remarks else ""
    raise UserError(
        f"{run_dir}: holds no checkpoint{reason}; give another run, or start a new training without resume"
    )
