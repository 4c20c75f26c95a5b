"""Snapshots: weights with the configuration needed to use them, and no code."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch

from util.errors import UserError
from util.io.loaded_values import check, check_plain, check_tensors, check_whole
from util.io.tensor_files import read_tensors, write_tensors

Network = TypeVar("Network", bound=torch.nn.Module)

FORMAT = 1
_RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "SimpleITK", "sacred")
_MAX_PX = 2048  # as in the configuration
_FIELDS = {"format": int, "step": int, "weights": Mapping, "config": Mapping, "versions": Mapping}


@dataclass(frozen=True)
class Snapshot:
    """A network after some training steps.

    Attributes:
        step: training steps done.
        weights: the network's state dict.
        config: the configuration of its training, plain values.
        versions: of Python and the packages that affect results.
        data: fingerprint of the data; None if unknown.
        training_ids: of the training scans; None if unknown.
        source: the file it was loaded from, for messages; None otherwise.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    data: str | None = None
    training_ids: Sequence[int] | None = None
    source: Path | None = None


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot atomically; raises `UserError` if the disk is full."""
    content = {
        "format": FORMAT,
        "step": snapshot.step,
        "weights": {name: tensor.detach().cpu() for name, tensor in snapshot.weights.items()},
        "config": snapshot.config,
        "versions": dict(snapshot.versions),
        "data": snapshot.data,
        "training_ids": None if snapshot.training_ids is None else list(snapshot.training_ids),
    }
    write_tensors(path, content)


def load_snapshot(path: Path) -> Snapshot:
    """Load and validate a snapshot on the CPU, without executing code.

    Raises:
        UserError: the file is missing, damaged, of another format or not a snapshot; or a value is invalid,
            such as a non-finite weight. The field is named.
    """
    content = read_tensors(path, kind="snapshot")
    for name, kind in _FIELDS.items():
        if not isinstance(content, Mapping) or not isinstance(content.get(name), kind):
            raise UserError(
                f"{path}: is not a snapshot of this project (no {name}); give one made by training"
            )
    if content["format"] != FORMAT:
        raise UserError(
            f"{path}: has snapshot format {content['format']}, this version reads {FORMAT}; train it again"
        )
    check_whole(path, content["step"], field="step")
    check_tensors(path, content["weights"], field="weights")
    check_plain(path, content["versions"], field="versions")
    check_config(path, content["config"])
    data = content.get("data")
    check(path, data is None or isinstance(data, str), field="data", rule="be a hash or None", value=data)
    training_ids = content.get("training_ids")
    if training_ids is not None:
        check(
            path, isinstance(training_ids, list), field="training_ids", rule="be a list", value=training_ids
        )
        for scan_id in training_ids:
            check_whole(path, scan_id, field="training_ids")
    return Snapshot(
        step=content["step"],
        weights=content["weights"],
        config=content["config"],
        versions=content["versions"],
        data=data,
        training_ids=training_ids,
        source=Path(path),
    )


def check_config(path: Path, config: Any) -> None:
    """Check the training configuration stored in a file.

    `image_size_px` and `seed` must be valid if present, all other values plain; the network's settings are
    checked when it is built.

    Raises:
        UserError: a value is invalid; file and key are named.
    """
    check(path, isinstance(config, Mapping), field="config", rule="be a mapping", value=config)
    check_plain(path, config, field="config")
    if "model" in config:
        model = config["model"]
        check(path, isinstance(model, Mapping), field="config.model", rule="be a group of keys", value=model)
    if "seed" in config:
        check_whole(path, config["seed"], field="config.seed")
    size = config.get("image_size_px")
    if size is not None:
        is_size = isinstance(size, list | tuple) and len(size) == 2
        check(path, is_size, field="config.image_size_px", rule="be two whole numbers", value=size)
        for length in size:
            is_usable = isinstance(length, int) and 1 <= length <= _MAX_PX
            check(path, is_usable, field="config.image_size_px", rule=f"be 1 to {_MAX_PX}", value=length)


def load_weights(model: Network, snapshot: Snapshot) -> Network:
    """Load a snapshot's weights into a network, and return it.

    Raises:
        UserError: they do not fit; the first tensor that differs is named, and the network is unchanged.
    """
    expected = model.state_dict()
    differing = sorted(expected.keys() ^ snapshot.weights.keys()) or [
        name
        for name, tensor in expected.items()
        if (tensor.shape, tensor.dtype) != (snapshot.weights[name].shape, snapshot.weights[name].dtype)
    ]
    if differing:
        prefix = "" if snapshot.source is None else f"{snapshot.source}: "
        raise UserError(
            f"{prefix}the snapshot does not fit the network: {differing[0]} differs; train it again"
        )
    model.load_state_dict(snapshot.weights)
    return model


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    versions = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
