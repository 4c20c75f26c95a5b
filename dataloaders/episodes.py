"""Sample training episodes: support and query are slices of one target."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.layout import DatasetLayout
from dataloaders.augmentation import augment_episode
from dataloaders.episode_index import EpisodeIndex, build_index, find_excluded_slices
from dataloaders.episode_settings import EpisodeConfig
from dataloaders.prepared_scans import PreparedScan, load_scans, resize_scan
from dataloaders.sharding import episodes_of_rank
from dataloaders.splits import Split, describe_split
from dataloaders.warps import REFERENCE_SIZE_PX
from dataloaders.worker_batches import BatchLoader, PackedBatch, init_worker, measure_timeout_s
from util.errors import UserError
from util.remarks import remark

MIN_HALF_SIZE_PX = 16  # two rows and columns of features


class EpisodeDataset(Dataset):
    """Episodes over prepared scans; episode i is a function of (seed, i) alone.

    Windows are sampled by `EpisodeIndex.draw` and augmented by `augment_episode`. The first episodes may have
    smaller slices, see `config.n_half_size`: progressive resizing.

    Args:
        scans: loaded with labels and supervoxels as `config.needs_labels` and `config.needs_supervoxels`
            require, and with all sets of supervoxels to sample from; neither changed nor copied.
        config: content of the episodes.

    Attributes:
        config: as passed.
        scan_ids: of the scans, in their order.
        slice_size_px: height and width of their slices.
        index: every eligible window, built once.

    Raises:
        UserError: no scans, slices of different sizes or too small to be halved, or no eligible window.
        ValueError: a scan lacks the labels or supervoxels that the configuration needs.
    """

    def __init__(self, scans: Sequence[PreparedScan], config: EpisodeConfig) -> None:
        self.config = config
        _require_one_size(scans)
        self.scan_ids = [scan.scan_id for scan in scans]
        self.slice_size_px = scans[0].image.shape[-2:]
        self._images = [scan.image for scan in scans]
        self._targets = [_target_volumes(scan, config) for scan in scans]
        self.index = _build_checked_index(scans, self._targets, config)
        self._half_size = None
        if config.n_half_size > 0:
            self._half_size = EpisodeDataset(_halve(scans), replace(config, n_half_size=0))

    def __len__(self) -> int:
        return self.config.n_episodes

    def content_hash(self) -> str:
        """Hash the images and targets that episodes are made of, at about 1 GB/s."""
        digest = hashlib.blake2b(digest_size=16)
        for scan_id, image, targets in zip(self.scan_ids, self._images, self._targets, strict=True):
            digest.update(str((scan_id, image.shape, len(targets))).encode())
            for volume in (image, *targets):
                digest.update(np.ascontiguousarray(volume))
        return digest.hexdigest()

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Make episode `index`.

        Returns:
            `support_images` `(n_shots, 1, H, W)` and `support_masks` `(n_shots, H, W)` float32,
            `query_images` `(1, 1, H, W)` float32 and `query_masks` `(1, H, W)` int64 (the leading axis counts
            query slices), masks of 0 and 1, `H` and `W` of `slice_size_px` or half of it; and int64
            `episode_index` `()`, `scan_id` `()`, `supervoxel_id` `()` (within its set; the label with
            `use_gt`) and `slice_indices` `(n_shots + 1,)`, the support's first.

        Raises:
            IndexError: `index` is not in 0 to `len(self) - 1`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index}: must be 0 to {len(self) - 1}")
        if index < self.config.n_half_size:
            return self._half_size[index]
        generator = np.random.default_rng(np.random.SeedSequence([self.config.seed, index]))
        window = self.index.draw(generator)
        # Indexing with an array copies, so the volumes stay as they are.
        images = self._images[window.scan_position][window.slices]
        targets = self._targets[window.scan_position][window.set_position]
        masks = (targets[window.slices] == window.target_id).astype(np.float32)
        n_shots = self.config.n_shots
        augment_episode(images, masks, n_shots, ranges=self.config.augmentation, generator=generator)
        return {
            "support_images": torch.from_numpy(images[:n_shots, None]),
            "support_masks": torch.from_numpy(masks[:n_shots]),
            "query_images": torch.from_numpy(images[n_shots:, None]),
            "query_masks": torch.from_numpy(masks[n_shots:].astype(np.int64)),
            "episode_index": torch.tensor(index),
            "scan_id": torch.tensor(self.scan_ids[window.scan_position]),
            "supervoxel_id": torch.tensor(window.target_id),
            "slice_indices": torch.from_numpy(window.slices.copy()),
        }


def load_episodes(
    layout: DatasetLayout,
    split: Split,
    config: EpisodeConfig,
    *,
    further: Sequence[DatasetLayout] = (),
    image_size_px: tuple[int, int] | None = None,
) -> EpisodeDataset:
    """Load a fold's training scans as an `EpisodeDataset`.

    If episodes need labels, scans without labels are excluded with a remark.

    Args:
        layout: paths of the files.
        split: of the fold.
        config: content of the episodes.
        further: see `load_scan`'s `more_supervoxels`.
        image_size_px: see `load_scan`.

    Raises:
        UserError: see `load_scans` and `EpisodeDataset`.
    """
    for line in describe_split(split):
        remark(line)
    scan_ids = split.training
    if config.needs_labels and split.unlabelled:
        scan_ids = tuple(scan_id for scan_id in scan_ids if scan_id not in split.unlabelled)
        if not scan_ids:
            missing = layout.label_path(split.unlabelled[0])
            raise UserError(f"{missing}: no such label file; evaluation, setting 2 and use_gt need labels")
        remark(
            f"{len(split.unlabelled)} scans without labels are not used for training, which needs labels here"
        )
    scans = load_scans(
        layout,
        scan_ids,
        with_labels=config.needs_labels,
        with_supervoxels=config.needs_supervoxels,
        more_supervoxels=further,
        image_size_px=image_size_px,
    )
    return EpisodeDataset(scans, config)


def make_episode_loader(
    dataset: EpisodeDataset,
    *,
    batch_size: int,
    num_workers: int,
    start_episode: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    n_ranks: int = 1,
) -> BatchLoader:
    """Make a loader that yields the episodes in order, starting at any of them.

    Global random states are untouched, so that training does not depend on the number of workers. In each
    step the ranks together process the episodes of a single rank with a batch of `n_ranks * batch_size`.

    Args:
        dataset: the episodes, of all ranks.
        batch_size: episodes per batch of one rank; the last batch may hold fewer.
        num_workers: worker processes that prefetch episodes; 0 makes them in this process.
        start_episode: first episode over all ranks, to resume a training; the first of a step.
        pin_memory: pin batches for transfer to a GPU.
        rank: the rank of this loader.
        n_ranks: processes that train together; the episodes must fill all their steps.

    Returns:
        The loader; each entry of a batch is `EpisodeDataset.__getitem__`'s with a leading batch axis.

    Raises:
        UserError: a number is out of range. Iterating raises as `BatchLoader` does.
        ValueError: see `episodes_of_rank`.
    """
    if batch_size < 1 or num_workers < 0:
        raise UserError(
            f"batch_size={batch_size}, num_workers={num_workers}: must be at least 1 and at least 0"
        )
    if not 0 <= start_episode <= len(dataset):
        raise UserError(f"cannot resume at episode {start_episode} of {len(dataset)}; raise n_steps")
    episodes = range(start_episode, len(dataset))
    has_workers = num_workers > 0 and len(episodes) > 0
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=episodes_of_rank(episodes, batch_size, rank=rank, n_ranks=n_ranks),
        num_workers=num_workers,
        collate_fn=PackedBatch,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers > 0 else None,
        worker_init_fn=init_worker,
        timeout=measure_timeout_s(dataset, batch_size) if has_workers else 0,
        pin_memory=pin_memory,
        # A separate generator: the loader would otherwise draw worker seeds from PyTorch's global state.
        generator=torch.Generator(),
    )
    return BatchLoader(loader)


def _require_one_size(scans: Sequence[PreparedScan]) -> None:
    if not scans:
        raise UserError("training needs at least one scan, got none")
    first = scans[0]
    for scan in scans[1:]:
        if scan.image.shape[1:] != first.image.shape[1:]:
            raise UserError(
                f"slices must have one size to be batched, got {first.image.shape[1:]} in scan "
                f"{first.scan_id} and {scan.image.shape[1:]} in scan {scan.scan_id}; "
                "set image_size_px to resize them"
            )


def _halve(scans: Sequence[PreparedScan]) -> list[PreparedScan]:
    """Return the scans with slices of half the height and width, rounded down."""
    height, width = size_px = tuple(n // 2 for n in scans[0].image.shape[1:])
    if min(size_px) < MIN_HALF_SIZE_PX:
        raise UserError(
            f"task.half_size_share: slices of half the size would have {height} x {width} px; they need at "
            f"least {MIN_HALF_SIZE_PX} on each side; leave it at 0"
        )
    return [resize_scan(scan, size_px) for scan in scans]


def _target_volumes(scan: PreparedScan, config: EpisodeConfig) -> tuple[np.ndarray, ...]:
    if config.needs_labels and scan.label_map is None:
        raise ValueError(f"scan {scan.scan_id}: must be loaded with labels for {config}")
    if config.needs_supervoxels and scan.supervoxels is None:
        raise ValueError(f"scan {scan.scan_id}: must be loaded with supervoxels for {config}")
    if not config.use_gt:
        return scan.supervoxels, *scan.more_supervoxels
    # Test organs are removed here, not just never sampled: they cannot leak into an episode.
    return (np.where(np.isin(scan.label_map, config.train_labels), scan.label_map, 0),)


def _build_checked_index(
    scans: Sequence[PreparedScan], targets: Sequence[tuple[np.ndarray, ...]], config: EpisodeConfig
) -> EpisodeIndex:
    height, width = scans[0].image.shape[1:]
    min_size_px = config.min_size_px * (height * width) / REFERENCE_SIZE_PX**2
    excluded = [
        find_excluded_slices(scan.label_map, config.exclude_labels, config.exclude_rule)
        if config.exclude_labels
        else np.zeros(len(scan.image), dtype=bool)
        for scan in scans
    ]
    if config.exclude_labels and not any(slices.any() for slices in excluded):
        raise UserError(
            f"exclude_label={list(config.exclude_labels)}: setting 2 must leave test organs out, but no "
            f"slice of {len(scans)} training scans has {config.exclude_rule} of them; check the labels, the "
            "organ group and task.exclude_rule"
        )
    index = build_index(
        targets,
        excluded,
        window_length=config.n_shots + 1,
        min_size_px=min_size_px,
        max_gap=config.max_gap,
    )
    if len(index.scan_positions) == 0:
        raise UserError(_describe_empty_index(config, len(scans), min_size_px))
    return index


def _describe_empty_index(config: EpisodeConfig, n_scans: int, min_size_px: float) -> str:
    kind = "an organ of train_labels" if config.use_gt else "a supervoxel"
    hints = ["lower min_size"]
    if not config.use_gt:
        hints.append("lower n_sv and build the supervoxels again")
    if config.n_shots > 1:
        hints.append("lower n_shot")
    if config.exclude_labels:
        hints.append(f"exclude fewer slices (exclude_label={list(config.exclude_labels)})")
    n_slices = config.n_shots + 1
    window = f"{n_slices} consecutive slices"
    if config.max_gap > 1:
        window = f"{n_slices} slices in equal steps of 1 to {config.max_gap}"
    return (
        f"no episode can be sampled: none of {n_scans} training scans has {kind} in "
        f"{window}, one of them with {min_size_px:g} px of it "
        f"(min_size at this slice size); {', or '.join(hints)}"
    )
