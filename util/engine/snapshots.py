"""Snapshots of a training: weights with all that is needed to use them.

They hold nothing that could run.
"""

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
_LARGEST_PX = 2048  # as the configuration has it
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
        training_ids: of the scans that it was trained on; None where they are not known.
        source: the file that it was read from, for messages; None for one that was made.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    data: str | None = None
    training_ids: Sequence[int] | None = None
    source: Path | None = None


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
        "training_ids": None if snapshot.training_ids is None else list(snapshot.training_ids),
    }
    write_tensors(path, content)


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot onto the CPU, running nothing that it may hold.

    Raises:
        UserError: the file is missing, damaged, of another format, or no snapshot of ours; or a value is not
            what it must be, such as a weight that is not finite. The field is named.
    """
    content = read_tensors(path, what="snapshot")
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
    check(path, data is None or isinstance(data, str), field="data", must="be a hash or None", found=data)
    training_ids = content.get("training_ids")
    if training_ids is not None:
        check(
            path, isinstance(training_ids, list), field="training_ids", must="be a list", found=training_ids
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
    """Check what a file keeps of its training's configuration.

    The slices' size and the seed must be usable if present, the others plain values; whoever builds the
    network checks its settings.

    Raises:
        UserError: they are not; file and key are named.
    """
    check(path, isinstance(config, Mapping), field="config", must="be keys and values", found=config)
    check_plain(path, config, field="config")
    if "model" in config:
        model = config["model"]
        check(path, isinstance(model, Mapping), field="config.model", must="be a group of keys", found=model)
    if "seed" in config:
        check_whole(path, config["seed"], field="config.seed")
    size = config.get("image_size_px")
    if size is not None:
        is_size = isinstance(size, list | tuple) and len(size) == 2
        check(path, is_size, field="config.image_size_px", must="be two whole numbers", found=size)
        for length in size:
            is_usable = isinstance(length, int) and 1 <= length <= _LARGEST_PX
            check(path, is_usable, field="config.image_size_px", must=f"be 1 to {_LARGEST_PX}", found=length)


def load_weights(model: Network, snapshot: Snapshot) -> Network:
    """Give a network a snapshot's weights, and return it.

    Raises:
        UserError: they do not fit; the first tensor that differs is named, and the network stays as it was.
    """
    own = model.state_dict()
    differing = sorted(own.keys() ^ snapshot.weights.keys()) or [
        name
        for name, tensor in own.items()
        if (tensor.shape, tensor.dtype) != (snapshot.weights[name].shape, snapshot.weights[name].dtype)
    ]
    if differing:
        place = "" if snapshot.source is None else f"{snapshot.source}: "
        raise UserError(
            f"{place}the snapshot does not fit the network: {differing[0]} differs; train it again"
        )
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
