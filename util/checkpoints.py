"""Checkpoints: all that a training needs to go on as if it had never stopped.

They hold tensors and plain values alone, and nothing that could run. No random state is among them: what is
drawn at random depends on the seed and on the step or the episode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from util.errors import UserError
from util.runs import checkpoint_path, list_checkpoints
from util.snapshots import read_tensors, write_tensors

FORMAT = 1
N_KEPT = 2  # the newest, and one before in case a disk damages it


@dataclass(frozen=True)
class Checkpoint:
    """A training after some of its steps.

    Attributes:
        step: steps done.
        config: the training's configuration, plain values.
        weights: the network's state dict, of the first rank.
        optimizer: the optimiser's state dict.
        average: the averaged network's state dict with the number of updates; None without an average.
        of_ranks: for each rank what it has of its own: its network's `buffers`, and the sums of the `meter`.
        history: metric -> `{"steps": [...], "values": [...]}`, all that was logged.
        n_skipped: steps whose update was left out.
    """

    step: int
    config: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    average: Mapping[str, Any] | None
    of_ranks: Sequence[Mapping[str, Any]]
    history: Mapping[str, Mapping[str, list]]
    n_skipped: int


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint in one step, and remove all but the one before it.

    Raises:
        UserError: it cannot be written; those before are untouched.
    """
    path = checkpoint_path(run_dir, checkpoint.step)
    content = {entry.name: getattr(checkpoint, entry.name) for entry in fields(Checkpoint)}
    write_tensors(path, {"format": FORMAT, "kind": "checkpoint", **content})
    for old in list_checkpoints(run_dir)[N_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, running nothing that it may hold.

    Raises:
        UserError: it is missing, damaged, of another format or no checkpoint.
    """
    content = read_tensors(path, what="checkpoint")
    if not isinstance(content, Mapping) or content.get("kind") != "checkpoint":
        raise UserError(f"{path}: is not a checkpoint of a training; give one that training made")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path}: has checkpoint format {content.get('format')}, this version reads {FORMAT}; go on with "
            "the version that made it, or train again"
        )
    missing = [entry.name for entry in fields(Checkpoint) if entry.name not in content]
    if missing:
        raise UserError(f"{path}: is not a checkpoint of a training (no {missing[0]}); use an older one")
    return Checkpoint(**{entry.name: content[entry.name] for entry in fields(Checkpoint)})


def newest_checkpoint(run_dir: Path) -> tuple[Checkpoint, list[str]]:
    """Read the newest checkpoint of a run that can be read.

    Returns:
        It, and a line about each newer one that cannot.

    Raises:
        UserError: the run has none that can be read.
    """
    remarks: list[str] = []
    for path in list_checkpoints(run_dir):
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            remarks.append(f"warning: {error}")
            continue
        if remarks:
            remarks.append(f"going on from {path}")
        return checkpoint, remarks
    told = f" that can be read ({remarks[0].removeprefix('warning: ')})" if remarks else ""
    raise UserError(f"{run_dir}: holds no checkpoint{told}; give another run, or train anew without resume")
