"""Snapshots of a training: weights with all that is needed to use them.

They hold nothing that could run.
"""

import pickle
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch

from util.errors import UserError
from util.files import replaced_file

Network = TypeVar("Network", bound=torch.nn.Module)

FORMAT = 1
_RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "SimpleITK", "sacred")
_FIELDS = {"format": int, "step": int, "weights": Mapping, "config": Mapping, "versions": Mapping}


@dataclass(frozen=True)
class Snapshot:
    """A network as it was after some training steps.

    Attributes:
        step: training steps done.
        weights: the network's state dict.
        config: the configuration of its training, plain values.
        versions: of Python and of the packages that matter.
        data: hash of the fingerprint of the data; None where it was not taken.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    data: str | None = None


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot in one step.

    Raises `UserError` when the disk is full or not writable.
    """
    content = {
        "format": FORMAT,
        "step": snapshot.step,
        "weights": {name: tensor.detach().cpu() for name, tensor in snapshot.weights.items()},
        "config": snapshot.config,
        "versions": dict(snapshot.versions),
        "data": snapshot.data,
    }
    write_tensors(path, content)


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values in one step.

    Raises `UserError` when the disk is full or not writable; a file of before is untouched then.
    """
    with replaced_file(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what the zip writer makes of a full disk
            raise UserError(f"{path}: cannot be written ({_first_line(error)}); is the disk full?") from error


def read_tensors(path: Path, *, what: str) -> Any:
    """Read what `write_tensors` wrote, onto the CPU.

    Nothing that the file may hold is run.

    Args:
        path: the file.
        what: the word for it in messages.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such {what}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as errors of many kinds
        raise UserError(
            f"{path}: is damaged or not a {what} ({_first_line(error)}); use another {what} of the run"
        ) from error


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot onto the CPU, running nothing that it may hold.

    Raises:
        UserError: the file is missing, damaged, of another format, or no snapshot of ours.
    """
    content = read_tensors(path, what="snapshot")
    for name, kind in _FIELDS.items():
        if not isinstance(content, Mapping) or not isinstance(content.get(name), kind):
            raise UserError(
                f"{path}: is not a snapshot of this project (no {name}); give one made by training"
            )
    if not all(isinstance(tensor, torch.Tensor) for tensor in content["weights"].values()):
        raise UserError(f"{path}: is not a snapshot of this project (weights that are no tensors)")
    if content["format"] != FORMAT:
        raise UserError(
            f"{path}: has snapshot format {content['format']}, this version reads {FORMAT}; train it again"
        )
    return Snapshot(
        step=content["step"],
        weights=content["weights"],
        config=content["config"],
        versions=content["versions"],
        data=content.get("data"),
    )


def load_weights(model: Network, snapshot: Snapshot) -> Network:
    """Give a network a snapshot's weights, and return it.

    Raises:
        UserError: they do not fit; the first tensor that differs is named, and the network stays as it was.
    """
    own = model.state_dict()
    differing = sorted(own.keys() ^ snapshot.weights.keys()) or [
        name for name, tensor in own.items() if tensor.shape != snapshot.weights[name].shape
    ]
    if differing:
        raise UserError(f"the snapshot does not fit the network: {differing[0]} differs; train it again")
    model.load_state_dict(snapshot.weights)
    return model


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's text advises to load it all the same
        return "it holds more than plain tensors"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
