"""U-Nets of one support scan: a baseline, or a help beside the network.

They are what a practitioner would try first. Source: Ronneberger et al., "U-Net: Convolutional networks for
biomedical image segmentation", MICCAI 2015, in MONAI's implementation with residual units and instance
normalisation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config_ssl_upload import Config
from dataloaders.evaluation_sets import EvaluationScan, Job
from dataloaders.framed_scans import FramedSupport
from dataloaders.labelled_slices import iterate_labelled_slices
from models.inference.scan import resize_slices
from util.engine.seeding import derive_seed
from util.errors import UserError
from util.parallel.ranks import find_ranks
from util.progress import progress_bar

BATCH_SIZE = 4
CHANNELS = (32, 64, 128, 256)
_STRIDES = (2, 2, 2)
_MULTIPLE = 2 ** len(_STRIDES)  # of which padded slices have a size
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-2


def check_monai(key: str) -> None:
    """Raise `UserError`, which names the key, if MONAI is not installed."""
    if find_spec("monai") is None:
        raise UserError(
            f"{key}: the package monai is not installed; run pip install monai in the environment, or leave "
            "the key out"
        )


class SupportUNets:
    """U-Nets, one for all organs of each main support.

    Each trains when it is first used, for `evaluation.unet_steps` batches, augmented as adaptation's episodes
    are.

    Args:
        jobs: all that may be segmented.
        config: of the evaluation.
        device: where U-Nets train and segment.
    """

    def __init__(self, jobs: Sequence[Job], *, config: Config, device: torch.device) -> None:
        self._config, self._device = config, device
        self._labels: dict[int, list[int]] = {}
        organs = {(job.support.scan_id, job.label) for job in jobs if job.main_support}
        for support_id, label in sorted(organs):
            self._labels.setdefault(support_id, []).append(label)
        self._models: dict[int, nn.Module] = {}
        self._segmented: tuple[tuple[int, int], Tensor] | None = None  # the last query, with its support

    def segment(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, np.ndarray]]:
        """Yield jobs with their probabilities, query by query."""
        by_pair: dict[tuple[int, int], list[Job]] = {}
        for job in jobs:
            by_pair.setdefault(_pair(job), []).append(job)
        for job in chain.from_iterable(by_pair.values()):
            yield job, self.segment_job(job)

    def segment_job(self, job: Job) -> np.ndarray:
        """Return a job's probability in its slices, `(n, H, W)`; main supports only.

        Jobs of the same query are the fastest in turn: it is segmented once.
        """
        pair = _pair(job)
        if self._segmented is None or self._segmented[0] != pair:
            images = job.query.images[:, 0].to(self._device)
            self._segmented = pair, segment_slices(self._find_model(job.support), images).cpu()
        position = 1 + self._labels[job.support.scan_id].index(job.label)
        probabilities = self._segmented[1][job.assignment.slices, position]
        return resize_slices(probabilities, job.query.label_map.shape[1:]).numpy()

    def _find_model(self, support: EvaluationScan) -> nn.Module:
        if support.scan_id not in self._models:
            labels = self._labels[support.scan_id]
            classes = np.zeros(support.support_labels.shape, np.int64)
            for position, label in enumerate(labels, start=1):
                classes[support.support_labels == label] = position
            self._models[support.scan_id] = _train(
                support.images[:, 0].numpy(),
                classes,
                n_classes=1 + len(labels),
                title=f"training a U-Net on scan {support.scan_id}",
                config=self._config,
                device=self._device,
            )
        return self._models[support.scan_id]


def _pair(job: Job) -> tuple[int, int]:
    return job.support.scan_id, job.query.scan_id


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
    from monai.networks.nets import UNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UNet(2, 1, n_classes, CHANNELS, _STRIDES, num_res_units=2, norm="instance").to(device)
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


@torch.inference_mode()
def segment_slices(model: nn.Module, images: Tensor) -> Tensor:
    """Return each class's probability in slices `(n, H, W)`, one at a time.

    Returns:
        `(n, C, H, W)`, summing to 1 over the classes.
    """
    return torch.cat([_logits(model, image[None]).softmax(1) for image in images])


def make_unet_training(
    config: Config, n_steps: int, *, device: torch.device
) -> Callable[[Sequence[FramedSupport], int], Callable[[Tensor], Tensor]] | None:
    """Return `train_on_supports` for so many steps; None for 0.

    Raises `UserError` if MONAI is not installed.
    """
    if n_steps == 0:
        return None
    check_monai("unet_steps")
    evaluation = config.evaluation.model_copy(update={"unet_steps": n_steps})
    return partial(
        train_on_supports, config=config.model_copy(update={"evaluation": evaluation}), device=device
    )


def train_on_supports(
    supports: Sequence[FramedSupport], n_labels: int, *, config: Config, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Train one U-Net on all slices of several supports.

    Args:
        supports: their labels are 1 to `n_labels`.
        n_labels: their number.
        config: with `evaluation.unet_steps`, the augmentation of `adaptation`, and the seed.
        device: where to train and to segment.

    Returns:
        A function from slices `(n, 1, h, w)` to each class's probability, `(n, 1 + n_labels, h, w)`, on the
        CPU.

    Raises:
        UserError: the supports' slices differ in size.
    """
    images = [support.scan.images[:, 0].numpy() for support in supports]
    if len({scan.shape[1:] for scan in images}) > 1:
        raise UserError("unet_steps: needs supports with slices of one size; leave it out, or some supports")
    model = _train(
        np.concatenate(images),
        np.concatenate([support.network_labels for support in supports]),
        n_classes=1 + n_labels,
        title=f"training a U-Net on {', '.join(support.scan.name for support in supports)}",
        config=config,
        device=device,
    )
    return lambda slices: segment_slices(model, slices[:, 0].to(device)).cpu()


def _train(
    images: np.ndarray,
    classes: np.ndarray,
    *,
    n_classes: int,
    title: str,
    config: Config,
    device: torch.device,
) -> nn.Module:
    """Train a U-Net on slices `(n, h, w)` and their classes."""
    n_batches = config.evaluation.unet_steps
    batches = iterate_labelled_slices(
        images,
        classes,
        batch_size=BATCH_SIZE,
        n_batches=n_batches,
        ranges=config.adaptation.augmentation,
        seed=derive_seed(config.seed, "adaptation"),
    )
    with progress_bar(
        batches, total=n_batches, desc=title, unit="step", disable=not find_ranks().is_main
    ) as bar:
        return train_unet(
            (tuple(map(torch.from_numpy, batch)) for batch in bar),
            n_batches=n_batches,
            n_classes=n_classes,
            seed=derive_seed(config.seed, "weights"),
            device=device,
        )


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Pad slices to the size that the U-Net needs, and cut its output to theirs."""
    height, width = images.shape[-2:]
    padding = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
    padded = F.pad(images[:, None], padding, mode="replicate")
    return model(padded)[..., :height, :width]
