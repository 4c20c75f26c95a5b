"""Train U-Nets on annotated slices; trained ones are cached by content.

Source: Ronneberger et al., "U-Net: Convolutional networks for biomedical image segmentation", MICCAI 2015, in
MONAI's implementation with residual units and instance normalisation.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config_ssl_upload import Config
from dataloaders.labelled_slices import iterate_labelled_slices
from util.config.settings import plain_values
from util.engine.seeding import derive_seed
from util.errors import UserError
from util.io.tensor_files import first_line, read_tensors, write_tensors
from util.io.volume_hash import hash_volume
from util.progress import progress_bar
from util.remarks import remark

TRAINING_VERSION = 1  # raised by any change of a training's result
BATCH_SIZE = 4
CHANNELS = (32, 64, 128, 256)
_STRIDES = (2, 2, 2)
_MULTIPLE = 2 ** len(_STRIDES)  # of which padded slices have a size
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-2


def check_monai(key: str) -> None:
    """Raise `UserError`, which names the key, if MONAI is not installed."""
    if find_spec("monai") is None:
        raise UserError(
            f"{key}: the package monai is not installed; run pip install -r requirements.txt in the "
            "environment, or set it to 0"
        )


def train_unet(
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    n_batches: int,
    n_classes: int,
    seed: int,
    device: torch.device,
) -> nn.Module:
    """Train a U-Net with the sum of Dice and cross-entropy losses.

    AdamW, with a learning rate of one cycle.

    Args:
        batches: slices `(N, H, W)` and their classes `(N, H, W)`, int64, 0 the background.
        n_batches: their number.
        n_classes: with the background.
        seed: of the initial weights.
        device: where to train.

    Returns:
        The network in evaluation mode; see `segment_slices`.

    Raises:
        ImportError: MONAI is not installed.
    """
    from monai.losses import DiceCELoss

    model = _make_unet(n_classes, seed=seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=n_batches)
    criterion = DiceCELoss(softmax=True, to_onehot_y=True)
    model.train()
    for images, classes in batches:
        loss = criterion(_logits(model, images.to(device)), classes[:, None].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _make_unet(n_classes: int, *, seed: int) -> nn.Module:
    from monai.networks.nets import UNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(2, 1, n_classes, CHANNELS, _STRIDES, num_res_units=2, norm="instance")


@torch.inference_mode()
def segment_slices(model: nn.Module, images: Tensor) -> Tensor:
    """Return each class's probability in slices `(n, H, W)`, one at a time.

    Returns:
        `(n, C, H, W)`, summing to 1 over the classes.
    """
    return torch.cat([_logits(model, image[None]).softmax(1) for image in images])


def find_or_train(
    images: np.ndarray,
    classes: np.ndarray,
    *,
    n_classes: int,
    title: str,
    config: Config,
    device: torch.device,
    cache_dir: Path | None,
    progress: bool,
) -> nn.Module:
    """Train a U-Net on slices and their classes, or find it in the cache.

    Args:
        images: `(n, h, w)`.
        classes: `(n, h, w)`, 0 the background.
        n_classes: with the background.
        title: of the progress bar.
        config: with `evaluation.unet_steps`, the augmentation of `adaptation`, and the seed.
        device: where to train.
        cache_dir: cache of trained U-Nets; None: no cache.
        progress: show a progress bar.

    Returns:
        The network in evaluation mode; see `segment_slices`.
    """
    n_batches, seed = config.evaluation.unet_steps, derive_seed(config.seed, "weights")
    drawing = {"ranges": config.adaptation.augmentation, "seed": derive_seed(config.seed, "adaptation")}
    identity = {"images": hash_volume(images), "classes": hash_volume(classes), "n_classes": n_classes}
    identity |= {"n_batches": n_batches, "weights_seed": seed, "channels": CHANNELS}
    identity |= {**drawing, "ranges": plain_values(drawing["ranges"])}
    path = cache_dir and cache_dir / f"unet_{_digest(identity)}.pt"
    model = path and _find_cached(path, n_classes)
    if model:
        return model.to(device)
    batches = iterate_labelled_slices(images, classes, batch_size=BATCH_SIZE, n_batches=n_batches, **drawing)
    with progress_bar(batches, total=n_batches, desc=title, unit="step", disable=not progress) as bar:
        model = train_unet(
            (tuple(map(torch.from_numpy, batch)) for batch in bar),
            n_batches=n_batches,
            n_classes=n_classes,
            seed=seed,
            device=device,
        )
    if path:
        write_tensors(path, {name: tensor.cpu() for name, tensor in model.state_dict().items()})
    return model


def _digest(identity: Mapping[str, Any]) -> str:
    """Hash everything that affects a U-Net's training, but for the machine."""
    versions = {"torch": torch.__version__, "monai": version("monai"), "training": TRAINING_VERSION}
    text = json.dumps({**identity, **versions}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _find_cached(path: Path, n_classes: int) -> nn.Module | None:
    """Load a trained U-Net; None if it is missing or damaged."""
    if not path.is_file():
        return None
    model = _make_unet(n_classes, seed=0)
    try:
        model.load_state_dict(read_tensors(path, kind="trained U-Net"))
    except (UserError, TypeError, RuntimeError) as error:
        remark(f"{first_line(error)}; the U-Net is trained again")
        return None
    return model.eval()


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Pad slices to the size that the U-Net needs, and cut its output to theirs."""
    height, width = images.shape[-2:]
    padding = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
    padded = F.pad(images[:, None], padding, mode="replicate")
    return model(padded)[..., :height, :width]
