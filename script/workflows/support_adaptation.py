"""Adapt a trained network to annotated scans, in evaluation and prediction."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from config_ssl_upload import Config
from data.prediction_settings import GPU_ADAPTATION_STEPS
from dataloaders.episodes import EpisodeDataset
from dataloaders.evaluation_sets import EvaluationScan, Job
from dataloaders.framed_scans import FramedSupport
from dataloaders.prepared_scans import PreparedScan
from dataloaders.support_episodes import make_support_episodes
from models.few_shot_seg import FewShotSeg
from models.inference.adaptation import Adaptation
from models.inference.segmenters import SupportSegmenter
from models.losses import CRITERIA
from script.workflows.networks import load_segmenter, load_trained
from util.config.settings import plain_values
from util.engine.adapted_snapshots import find_or_adapt
from util.engine.optimisation import OptimConfig, learning_rate, make_optimizer
from util.engine.snapshots import Snapshot
from util.errors import UserError
from util.io.volume_hash import hash_volume
from util.parallel.collectives import local_main_first
from util.parallel.ranks import find_ranks
from util.remarks import remark

WARMUP = 0.05  # share of the steps in which the learning rate rises
NO_CUTS = {"cut_every": 1, "cut_factor": 1.0}  # which the cosine schedule does not use


def adapt_to_scans(
    config: Config,
    snapshot: Snapshot,
    scans: Sequence[PreparedScan],
    labels: Sequence[int],
    *,
    device: torch.device,
    cache_dir: Path | None,
    title: str,
    progress: bool = True,
) -> Snapshot:
    """Adapt a snapshot to organs of annotated scans, or find it adapted in the cache.

    Args:
        config: with the snapshot's network and slice size, and `adaptation`.
        snapshot: of the trained network.
        scans: with label maps, their slices of one size.
        labels: ids of the organs in the label maps.
        device: where the network trains.
        cache_dir, title, progress: see `find_or_adapt`.

    Raises:
        UserError: as `find_or_adapt` and `make_support_episodes` do.
    """
    settings = config.adaptation
    identity = {
        "scans": [
            {
                "scan": hash_volume(scan.image),
                "label_map": hash_volume(scan.label_map),
                "scan_id": scan.scan_id,
            }
            for scan in scans
        ],
        "labels": list(labels),
        "settings": plain_values(settings),
        "loss": config.loss,
        "precision": config.precision,
    }

    def start() -> tuple[Adaptation, EpisodeDataset]:
        episodes = make_support_episodes(
            scans,
            labels,
            n_episodes=settings.steps,
            max_gap=settings.max_gap,
            min_size_px=settings.min_size,
            augmentation=settings.augmentation,
            seed=config.seed,
        )
        return _start_adaptation(config, load_trained(config, snapshot).to(device), device=device), episodes

    return find_or_adapt(
        cache_dir, snapshot, identity, start=start, seed=config.seed, title=title, progress=progress
    )


@dataclass(frozen=True)
class SupportAdaptation:
    """Adapt a trained network to supports.

    Attributes:
        trained: the trained network, used if nothing is adapted.
        snapshot: its weights.
        config, device: see `adapt_to_scans`.
        steps: of the adaptation; "auto": `auto_steps`, and none for supports that are too small to learn
            from.
        cache_dir: cache of adapted networks; None: no cache.
        auto_steps: None: `GPU_ADAPTATION_STEPS` on a GPU, none without one.
    """

    trained: SupportSegmenter
    snapshot: Snapshot
    config: Config
    steps: int | str
    device: torch.device
    cache_dir: str | Path | None
    auto_steps: int | None = None

    @property
    def n_steps(self) -> int:
        """Number of steps, if the supports are large enough."""
        if self.steps != "auto":
            return self.steps
        if self.auto_steps is not None:
            return self.auto_steps
        return GPU_ADAPTATION_STEPS if self.device.type == "cuda" else 0

    def __call__(self, supports: Sequence[FramedSupport], n_labels: int) -> SupportSegmenter:
        """Return the segmenter of the adapted network, or of the trained one."""
        steps = self.n_steps
        if steps == 0:
            return self.trained
        settings = self.config.adaptation.model_copy(update={"steps": steps})
        config = self.config.model_copy(update={"adaptation": settings})
        try:
            adapted = adapt_to_scans(
                config,
                self.snapshot,
                [support.to_prepared(number) for number, support in enumerate(supports)],
                range(1, n_labels + 1),
                device=self.device,
                cache_dir=None if self.cache_dir is None else Path(self.cache_dir),
                title=f"adapting to {', '.join(support.scan.name for support in supports)}",
                progress=sys.stderr.isatty(),
            )
        except UserError as error:
            if self.steps != "auto":
                raise UserError(f"adaptation={steps}: {error}; or set adaptation=0") from error
            remark(f"not adapted to the supports: {error}")
            return self.trained
        return load_segmenter(config, adapted, device=self.device)


def adapt_to_supports(
    config: Config, snapshot: Snapshot, jobs: Sequence[Job], *, device: torch.device
) -> dict[tuple[int, int], Snapshot]:
    """Adapt a snapshot to the main supports of jobs, on one rank of each machine.

    Returns:
        The adapted snapshot of each support scan and organ; empty if no adaptation is configured.
    """
    adapted: dict[tuple[int, int], Snapshot] = {}
    main_jobs = [job for job in jobs if job.main_support and config.adaptation.steps]
    for support in {job.support.scan_id: job.support for job in main_jobs}.values():
        labels = sorted({job.label for job in main_jobs if job.support is support})
        jointly = config.adaptation.organs == "jointly"
        for group in [labels] if jointly else [[label] for label in labels]:
            adapt = partial(_adapt_to_support, config, snapshot, support, labels=group, device=device)
            adapted.update(
                dict.fromkeys(((support.scan_id, label) for label in group), local_main_first(adapt))
            )
    return adapted


def _adapt_to_support(
    config: Config,
    snapshot: Snapshot,
    support: EvaluationScan,
    labels: Sequence[int],
    *,
    device: torch.device,
) -> Snapshot:
    """Adapt a snapshot to the organs of a support; on one rank, if there are several."""
    scan = PreparedScan(
        scan_id=support.scan_id,
        image=support.images[:, 0].numpy(),
        label_map=support.support_labels,
        supervoxels=None,
        geometry=support.geometry,
    )
    organs = ", ".join(config.spec.labels[label] for label in labels)
    return adapt_to_scans(
        config,
        snapshot,
        [scan],
        labels,
        device=device,
        cache_dir=Path(config.path.log_dir) / config.dataset / "adapted",
        title=f"adapting to scan {support.scan_id} ({organs})",
        progress=find_ranks().is_main,
    )


def _start_adaptation(config: Config, network: FewShotSeg, *, device: torch.device) -> Adaptation:
    """Start an adaptation of a network with AdamW, warm-up and a cosine schedule."""
    settings = config.adaptation
    optim = OptimConfig(
        name="adamw", lr=settings.lr, weight_decay=settings.weight_decay, schedule="cosine", warmup=WARMUP
    )
    return Adaptation(
        network,
        parts=settings.parts,
        make_optimizer=partial(make_optimizer, optim, device=device),
        learning_rate=lambda step: learning_rate(optim, step, n_steps=settings.steps, **NO_CUTS),
        criterion=CRITERIA[config.loss],
        precision=config.precision,
    )
