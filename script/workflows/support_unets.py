"""U-Nets of one support scan: a baseline, or a help beside the network.

They are what a practitioner would try first.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config_ssl_upload import Config
from dataloaders.evaluation_sets import EvaluationScan, Job
from dataloaders.framed_scans import FramedSupport
from models.inference.scan import resize_slices
from script.workflows.unet_training import check_monai, find_or_train, segment_slices
from util.errors import UserError
from util.parallel.ranks import find_ranks
from util.remarks import remark


class SupportUNets:
    """U-Nets, one for all organs of each main support.

    Each trains when it is first used, for `evaluation.unet_steps` batches, augmented as adaptation's episodes
    are.

    Args:
        jobs: all that may be segmented.
        config: of the evaluation.
        device: where U-Nets train and segment.
        cache_dir: cache of trained U-Nets; None: no cache.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        config: Config,
        device: torch.device,
        cache_dir: Path | None = None,
    ) -> None:
        self._config, self._device, self._cache_dir = config, device, cache_dir
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
            self._models[support.scan_id] = find_or_train(
                support.images[:, 0].numpy(),
                classes,
                n_classes=1 + len(labels),
                title=f"training a U-Net on scan {support.scan_id}",
                config=self._config,
                device=self._device,
                cache_dir=self._cache_dir,
                progress=find_ranks().is_main,
            )
        return self._models[support.scan_id]


def _pair(job: Job) -> tuple[int, int]:
    return job.support.scan_id, job.query.scan_id


def make_unet_training(
    config: Config, steps: int | str, *, auto_steps: int, device: torch.device, cache_dir: str | Path | None
) -> Callable[[Sequence[FramedSupport], int], Callable[[Tensor], Tensor] | None] | None:
    """Return `train_on_supports` for so many steps; None for 0.

    With "auto" these are `auto_steps`, and the U-Net is optional.

    Raises:
        UserError: MONAI is not installed.
    """
    is_optional = steps == "auto"
    n_steps = auto_steps if is_optional else steps
    if n_steps == 0:
        return None
    check_monai("unet_steps")
    evaluation = config.evaluation.model_copy(update={"unet_steps": n_steps})
    config = config.model_copy(update={"evaluation": evaluation})
    cache_dir = None if cache_dir is None else Path(cache_dir)
    options = {"config": config, "is_optional": is_optional, "device": device, "cache_dir": cache_dir}
    return partial(train_on_supports, **options)


def train_on_supports(
    supports: Sequence[FramedSupport],
    n_labels: int,
    *,
    config: Config,
    is_optional: bool,
    device: torch.device,
    cache_dir: Path | None,
) -> Callable[[Tensor], Tensor] | None:
    """Train one U-Net on all slices of several supports.

    Args:
        supports: their labels are 1 to `n_labels`.
        n_labels: their number.
        config: with `evaluation.unet_steps`, the augmentation of `adaptation`, and the seed.
        is_optional: do not train on supports that do not suit a U-Net.
        device: where to train and to segment.
        cache_dir: cache of trained U-Nets; None: no cache.

    Returns:
        A function from slices `(n, 1, h, w)` to each class's probability, `(n, 1 + n_labels, h, w)`, on the
        CPU; None if the supports do not suit a U-Net, which a remark explains.

    Raises:
        UserError: the supports' slices differ in size, and the U-Net is not optional.
    """
    if not _suit_unet(supports, n_labels, n_steps=config.evaluation.unet_steps, is_optional=is_optional):
        return None
    model = find_or_train(
        np.concatenate([support.scan.images[:, 0].numpy() for support in supports]),
        np.concatenate([support.network_labels for support in supports]),
        n_classes=1 + n_labels,
        title=f"training a U-Net on {', '.join(support.scan.name for support in supports)}",
        config=config,
        device=device,
        cache_dir=cache_dir,
        progress=sys.stderr.isatty(),
    )
    return lambda slices: segment_slices(model, slices[:, 0].to(device)).cpu()


def _suit_unet(supports: Sequence[FramedSupport], n_labels: int, *, n_steps: int, is_optional: bool) -> bool:
    """Return whether to train on supports; a remark says what does not suit.

    Raises `UserError` if slices differ in size and the U-Net is not optional.
    """
    incomplete = [support.scan.name for support in supports if len(support.support_slices) < n_labels]
    has_sizes = len({support.scan.images.shape[2:] for support in supports}) > 1
    if has_sizes and not is_optional:
        raise UserError(
            f"unet_steps={n_steps}: the supports' slices differ in size; set unet_steps=0, or leave some "
            "supports out"
        )
    if not has_sizes and not incomplete:
        return True
    problem = "the supports' slices differ in size"
    if not has_sizes:
        problem = f"it takes labels that a support lacks ({', '.join(incomplete)}) for absent there"
    remark(f"no U-Net is trained: {problem}" if is_optional else f"unet_steps={n_steps}: {problem}")
    return not is_optional
