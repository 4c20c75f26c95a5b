"""Play training episodes.

Neighbouring slices of one target become support and query.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataloaders.episode_index import EpisodeIndex, build_index, excluded_slices
from dataloaders.sharding import episodes_of_rank
from dataloaders.volumes import PreparedScan
from dataloaders.warps import (
    REFERENCE_SIZE_PX,
    AugmentationRanges,
    apply_gamma,
    sample_warp,
    warp_image_and_mask,
)
from util.errors import UserError

# A few tries nearly always keep the target in view; a target of a pixel or two may have no such warp.
_MAX_WARP_TRIES = 4


@dataclass(frozen=True)
class EpisodeConfig:
    """What episodes are made of.

    Attributes:
        seed: with an episode's index, all that its content depends on; at least 0.
        n_episodes: length of the data set.
        n_shots: support slices per episode.
        min_size_px: least area of the target in one of the slices, at 256 x 256; scales with `H * W`.
        augmentation: strength of the augmentation.
        use_gt: manual labels take the supervoxels' place.
        train_labels: with `use_gt`, the labels to train on: the dataset's labels outside the test labels.
        exclude_labels: setting II's test organs, whose slices are never used; empty for setting I.
        exclude_rule: "any": slices with at least one of them are excluded; "all": only those with every one.

    Raises:
        UserError: a value is out of range, or `use_gt` has no labels or excluded ones, on construction.
    """

    seed: int
    n_episodes: int
    n_shots: int = 1
    min_size_px: float = 200.0
    augmentation: AugmentationRanges = field(default_factory=AugmentationRanges)
    use_gt: bool = False
    train_labels: tuple[int, ...] = ()
    exclude_labels: tuple[int, ...] = ()
    exclude_rule: str = "any"

    def __post_init__(self) -> None:
        least = {"seed": 0, "n_episodes": 1, "n_shots": 1, "min_size_px": 1}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise UserError(f"{name}={getattr(self, name)}: must be at least {bound}")
        if self.exclude_rule not in ("any", "all"):
            raise UserError(f"exclude_rule={self.exclude_rule}: must be any or all")
        if self.use_gt and not self.train_labels:
            raise UserError("use_gt=True: no label is left to train on; take some out of test_label")
        if any(label < 1 for label in (*self.train_labels, *self.exclude_labels)):
            raise UserError(
                f"train_labels={self.train_labels}, exclude_labels={self.exclude_labels}: must be at least 1"
            )

    @property
    def needs_labels(self) -> bool:
        """Whether the scans must be loaded with label maps."""
        return self.use_gt or bool(self.exclude_labels)

    @property
    def needs_supervoxels(self) -> bool:
        """Whether the scans must be loaded with supervoxels."""
        return not self.use_gt


class EpisodeDataset(Dataset):
    """Episodes over prepared scans; episode i is a function of (seed, i) alone.

    Gamma changes either the support (all shots alike) or the query, and so does the warp, each side chosen
    with probability 1/2. A warp that would push the target out of a slice is drawn again, up to four times
    in all; after that the slices keep their geometry, so that no mask is ever empty.

    Args:
        scans: loaded with what `config.needs_labels` and `config.needs_supervoxels` ask for; not changed.
        config: what episodes are made of.

    Attributes:
        config: as given.
        index: every window that may be drawn, built here once.

    Raises:
        UserError: no scans, slices of different sizes, or no window that an episode could be played on.
        ValueError: a scan lacks the labels or supervoxels that the configuration needs.
    """

    def __init__(self, scans: Sequence[PreparedScan], config: EpisodeConfig) -> None:
        self.config = config
        _require_one_size(scans)
        self._scan_ids = [scan.scan_id for scan in scans]
        self._images = [scan.image for scan in scans]
        self._targets = [_target_volume(scan, config) for scan in scans]
        self.index = _build_checked_index(scans, self._targets, config)

    def __len__(self) -> int:
        return self.config.n_episodes

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Make episode `index`.

        Returns:
            `support_images` `(n_shots, 1, H, W)` and `support_masks` `(n_shots, H, W)` float32,
            `query_images` `(1, 1, H, W)` float32 and `query_masks` `(1, H, W)` int64 (the leading axis counts
            query slices), masks of 0 and 1; and int64 `episode_index` `()`, `scan_id` `()`, `supervoxel_id`
            `()` (the label with `use_gt`) and `slice_indices` `(n_shots + 1,)`, the support's first.

        Raises:
            IndexError: `index` is not in 0 to `len(self) - 1`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index}: must be 0 to {len(self) - 1}")
        generator = np.random.default_rng(np.random.SeedSequence([self.config.seed, index]))
        scan_position, target_id, slices = self.index.draw(generator)
        # Indexing with an array copies, so the volumes stay as they are.
        images = self._images[scan_position][slices]
        masks = (self._targets[scan_position][slices] == target_id).astype(np.float32)
        self._augment(images, masks, generator)
        n_shots = self.config.n_shots
        return {
            "support_images": torch.from_numpy(images[:n_shots, None]),
            "support_masks": torch.from_numpy(masks[:n_shots]),
            "query_images": torch.from_numpy(images[n_shots:, None]),
            "query_masks": torch.from_numpy(masks[n_shots:].astype(np.int64)),
            "episode_index": torch.tensor(index),
            "scan_id": torch.tensor(self._scan_ids[scan_position]),
            "supervoxel_id": torch.tensor(target_id),
            "slice_indices": torch.from_numpy(slices.copy()),
        }

    def _augment(self, images: np.ndarray, masks: np.ndarray, generator: np.random.Generator) -> None:
        """Change one side's intensities and one side's geometry, in place."""
        ranges = self.config.augmentation
        side = self._draw_side(generator)
        gamma = generator.uniform(*ranges.gamma)
        for image in images[side]:
            image[:] = apply_gamma(image, gamma)
        side = self._draw_side(generator)
        warped = _warp_in_view(images[side], masks[side], generator, ranges)
        if warped is not None:
            images[side], masks[side] = warped

    def _draw_side(self, generator: np.random.Generator) -> slice:
        n_shots = self.config.n_shots
        return slice(0, n_shots) if generator.random() < 0.5 else slice(n_shots, n_shots + 1)


def make_episode_loader(
    dataset: EpisodeDataset,
    *,
    batch_size: int,
    num_workers: int,
    start_episode: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    n_ranks: int = 1,
) -> DataLoader:
    """Make a loader that gives the episodes in order, from any of them on.

    Leaves the global random states alone: the same training follows with any number of workers. In each step
    the ranks together play the episodes that one rank with `n_ranks * batch_size` a step would.

    Args:
        dataset: the episodes, of all ranks.
        batch_size: episodes per batch of one rank; the last batch may hold fewer.
        num_workers: processes that make episodes ahead; 0 makes them in this one.
        start_episode: first episode over all ranks, for a training that goes on; where a step begins.
        pin_memory: put batches where a GPU can fetch them.
        rank: which of the ranks this loader is for.
        n_ranks: processes that train together; the episodes must fill all their steps.

    Returns:
        The loader; each entry of a batch is `EpisodeDataset.__getitem__`'s with a leading batch axis.

    Raises:
        UserError: a number is out of range.
        ValueError: see `episodes_of_rank`.
    """
    if batch_size < 1 or num_workers < 0:
        raise UserError(
            f"batch_size={batch_size}, num_workers={num_workers}: must be at least 1 and at least 0"
        )
    if not 0 <= start_episode <= len(dataset):
        raise UserError(f"cannot go on at episode {start_episode}: there are {len(dataset)}; raise n_steps")
    episodes = range(start_episode, len(dataset))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=episodes_of_rank(episodes, batch_size, rank=rank, n_ranks=n_ranks),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers > 0 else None,
        worker_init_fn=worker_init,
        pin_memory=pin_memory,
        # Its own generator: the loader would otherwise draw worker seeds from PyTorch's global state.
        generator=torch.Generator(),
    )


def worker_init(worker_id: int) -> None:
    """Keep a worker process to one thread.

    Workers are many already, and slices small.
    """
    cv2.setNumThreads(0)


def _warp_in_view(
    images: np.ndarray, masks: np.ndarray, generator: np.random.Generator, ranges: AugmentationRanges
) -> tuple[np.ndarray, np.ndarray] | None:
    """Warp all slices by one map that empties no mask.

    Returns None where no try found such a map.
    """
    for _ in range(_MAX_WARP_TRIES):
        source_map = sample_warp(generator, images.shape[1:], ranges)
        pairs = [warp_image_and_mask(*pair, source_map) for pair in zip(images, masks, strict=True)]
        warped_images, warped_masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        if warped_masks.any(axis=(1, 2)).all():
            return warped_images, warped_masks
    return None


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


def _target_volume(scan: PreparedScan, config: EpisodeConfig) -> np.ndarray:
    if config.needs_labels and scan.label_map is None:
        raise ValueError(f"scan {scan.scan_id}: must be loaded with labels for {config}")
    if config.needs_supervoxels and scan.supervoxels is None:
        raise ValueError(f"scan {scan.scan_id}: must be loaded with supervoxels for {config}")
    if not config.use_gt:
        return scan.supervoxels
    # Test organs are removed here, not just never drawn: they cannot leak into an episode.
    return np.where(np.isin(scan.label_map, config.train_labels), scan.label_map, 0)


def _build_checked_index(
    scans: Sequence[PreparedScan], targets: Sequence[np.ndarray], config: EpisodeConfig
) -> EpisodeIndex:
    height, width = scans[0].image.shape[1:]
    min_size_px = config.min_size_px * (height * width) / REFERENCE_SIZE_PX**2
    excluded = [
        excluded_slices(scan.label_map, config.exclude_labels, config.exclude_rule)
        if config.exclude_labels
        else np.zeros(len(scan.image), dtype=bool)
        for scan in scans
    ]
    index = build_index(targets, excluded, window_length=config.n_shots + 1, min_size_px=min_size_px)
    if len(index.scan_positions) == 0:
        raise UserError(_nothing_eligible(config, len(scans), min_size_px))
    return index


def _nothing_eligible(config: EpisodeConfig, n_scans: int, min_size_px: float) -> str:
    kind = "an organ of train_labels" if config.use_gt else "a supervoxel"
    ways_out = ["lower min_size"]
    if not config.use_gt:
        ways_out.append("lower n_sv and build the supervoxels again")
    if config.n_shots > 1:
        ways_out.append("lower n_shot")
    if config.exclude_labels:
        ways_out.append(f"exclude fewer slices (exclude_label={list(config.exclude_labels)})")
    return (
        f"no episode can be played: none of {n_scans} training scans has {kind} in "
        f"{config.n_shots + 1} consecutive slices, one of them with {min_size_px:g} px of it "
        f"(min_size at this slice size); {', or '.join(ways_out)}"
    )
