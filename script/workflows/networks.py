"""Build networks from the configuration and from snapshots."""

from pathlib import Path

import torch

from config_ssl_upload import Config, ModelConfig, dataset_defaults, parse_config
from data.datasets import path_group
from data.model_frame import ModelFrame
from models.encoder_weights import WeightsError
from models.factory import build_network
from models.few_shot_seg import FewShotSeg
from models.inference.segmenters import NetworkSegmenter
from util.config.settings import (
    default_values,
    merge_values,
    parse_values,
    plain_values,
    with_present_names,
)
from util.engine.seeding import derive_seed
from util.engine.snapshots import Snapshot, load_weights
from util.errors import UserError
from util.parallel.hardware import set_up_device
from util.parallel.ranks import find_ranks
from util.parallel.threads import set_threads


def make_network(config: Config, *, pretrained: bool = True) -> FewShotSeg:
    """Build the network with its initial weights.

    Without `pretrained`, the encoder's are random, too. Raises `UserError` if the pretrained weights cannot
    be loaded.
    """
    options = {**plain_values(config.model), "activation_checkpointing": config.activation_checkpointing}
    if not pretrained:
        options["encoder_weights"] = None
    try:
        return build_network(seed=derive_seed(config.seed, "weights"), **options)
    except WeightsError as error:
        raise UserError(str(error)) from error


def load_trained(config: Config, snapshot: Snapshot) -> FewShotSeg:
    """Build the network with a snapshot's weights; `UserError` if they do not fit."""
    return load_weights(make_network(config, pretrained=False), snapshot)


def load_segmenter(config: Config, snapshot: Snapshot, *, device: torch.device) -> NetworkSegmenter:
    """Build what segments slices by a snapshot's network."""
    return NetworkSegmenter(load_trained(config, snapshot).to(device), precision=config.precision)


def adopt_network(config: Config, snapshot: Snapshot) -> Config:
    """Adopt the network's settings and the slice size of the snapshot.

    Raises:
        UserError: the snapshot lacks them, or the user requested others.
    """
    saved = snapshot.config
    try:
        model = parse_values(ModelConfig, {**default_values(ModelConfig), **saved["model"]}, prefix="model.")
        size = saved["image_size_px"]
    except (KeyError, TypeError, UserError) as error:
        fault = f"its configuration is not usable ({error})"
        raise UserError(f"{snapshot.source or 'the snapshot'}: {fault}; train it again") from error
    adopted = config.model_copy(
        update={"model": model, "image_size_px": None if size is None else tuple(size)}
    )
    defaults = dataset_defaults(config.dataset, config.recipe, config.protocol)
    default = parse_config({**defaults, "path": plain_values(config.path)})
    for name in ModelConfig.model_fields:
        requested, default_value, trained = (getattr(c.model, name) for c in (config, default, adopted))
        _refuse_other(
            f"model.{name}", requested, default=default_value, trained=trained, source=snapshot.source
        )
    requested, default_value, trained = (c.image_size_px for c in (config, default, adopted))
    _refuse_other("image_size_px", requested, default=default_value, trained=trained, source=snapshot.source)
    return adopted


def _refuse_other(
    key: str, requested: object, *, default: object, trained: object, source: Path | None
) -> None:
    if requested not in (default, trained):
        hint = f"leave {key} out" + (f", or use another snapshot than {source}" if source else "")
        raise UserError(f"{key}={requested}: the snapshot was trained with {trained}; {hint}")


def trained_config(snapshot: Snapshot, data_dir: str | None) -> Config:
    """Return what prediction needs of a snapshot's training configuration.

    Raises `UserError` if it is not usable. `data_dir` replaces the folder of the training data; None: not.
    """
    try:
        dataset, names = snapshot.config["dataset"], ("model", "image_size_px", "path")
        saved = {name: snapshot.config[name] for name in names if name in snapshot.config}
        values = merge_values(dataset_defaults(dataset), with_present_names(Config, saved)[0])
        if data_dir is not None:
            values = merge_values(values, {"path": {path_group(dataset): {"data_dir": data_dir}}})
        return parse_config(values)
    except (KeyError, TypeError, UserError) as error:
        fault = f"its configuration is not usable ({error})"
        raise UserError(f"{snapshot.source}: {fault}; set data_dir, or train it again") from error


def start_computing(
    config: Config, frame: ModelFrame, *, device: str, precision: str
) -> tuple[Config, torch.device]:
    """Choose device, number format, kernels and threads for prediction.

    Raises `UserError` if the device is missing or lacks the format. Returns the configuration with the
    format, and the device.
    """
    device, precision = set_up_device(device, precision, deterministic=True)
    size_px = config.image_size_px or frame.preparation.size_px or (256, 256)
    width = config.model.feature_width
    set_threads(find_ranks(), n_workers=0, slice_size_px=size_px, feature_width=width)
    return config.model_copy(update={"precision": precision}), device
