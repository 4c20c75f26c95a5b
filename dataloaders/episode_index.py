"""Find, once, every window of slices that an episode may be played on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Up to this id, counting by id directly is cheaper than making the ids dense first.
_MAX_DIRECT_ID = 1 << 16


@dataclass(frozen=True, eq=False)
class EpisodeIndex:
    """All eligible windows as flat arrays: scans own targets, targets own windows.

    A target is a supervoxel, or an organ when training uses manual labels.

    Attributes:
        scan_positions: `(S,)` positions, in the list of scans, of those with an eligible target.
        target_offsets: `(S + 1,)` where each of these scans' targets begin.
        target_ids: `(T,)` the targets' values in their volumes.
        window_offsets: `(T + 1,)` where each target's windows begin.
        window_starts: `(N,)` first slice of each window.
        window_length: slices per window.
    """

    scan_positions: np.ndarray
    target_offsets: np.ndarray
    target_ids: np.ndarray
    window_offsets: np.ndarray
    window_starts: np.ndarray
    window_length: int

    def draw(self, generator: np.random.Generator) -> tuple[int, int, np.ndarray]:
        """Draw a scan, one of its targets and one of its windows, each uniformly.

        Returns:
            The scan's position in the list of scans, the target's id, and the window's slices
            `(window_length,)`, in reversed order half of the time.
        """
        scan = generator.integers(len(self.scan_positions))
        target = generator.integers(self.target_offsets[scan], self.target_offsets[scan + 1])
        window = generator.integers(self.window_offsets[target], self.window_offsets[target + 1])
        slices = self.window_starts[window] + np.arange(self.window_length)
        if generator.random() < 0.5:
            slices = slices[::-1]
        return int(self.scan_positions[scan]), int(self.target_ids[target]), slices


def build_index(
    target_volumes: Sequence[np.ndarray],
    excluded_slices: Sequence[np.ndarray],
    *,
    window_length: int,
    min_size_px: float,
) -> EpisodeIndex:
    """Build the index over scans; see `eligible_windows` for what counts.

    Args:
        target_volumes: per scan `(Z, H, W)` integers, 0 = no target.
        excluded_slices: per scan `(Z,)` bool, slices never to use.
        window_length: consecutive slices per window.
        min_size_px: least area that a target must have in one of a window's slices.

    Returns:
        The index; empty (no scans) where nothing is eligible.
    """
    scan_positions, targets_per_scan = [], []
    target_ids, windows_per_target, window_starts = [], [], []
    for position, (volume, excluded) in enumerate(zip(target_volumes, excluded_slices, strict=True)):
        ids, starts = eligible_windows(volume, excluded, window_length=window_length, min_size_px=min_size_px)
        if len(ids) == 0:
            continue
        unique_ids, counts = np.unique(ids, return_counts=True)
        scan_positions.append(position)
        targets_per_scan.append(len(unique_ids))
        target_ids.append(unique_ids)
        windows_per_target.append(counts)
        window_starts.append(starts)
    return EpisodeIndex(
        scan_positions=np.array(scan_positions, dtype=np.int64),
        target_offsets=np.concatenate([[0], np.cumsum(targets_per_scan, dtype=np.int64)]),
        target_ids=_joined(target_ids),
        window_offsets=np.concatenate([[0], np.cumsum(_joined(windows_per_target))]),
        window_starts=_joined(window_starts),
        window_length=window_length,
    )


def eligible_windows(
    targets: np.ndarray, excluded: np.ndarray, *, window_length: int, min_size_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """List the windows of one scan that an episode may use.

    A window is `window_length` consecutive slices, none excluded, all holding the target, at least one of
    them with `min_size_px` pixels of it.

    Args:
        targets: `(Z, H, W)` integers, 0 = no target.
        excluded: `(Z,)` bool.
        window_length: at least 1.
        min_size_px: least area in pixels.

    Returns:
        The windows' target ids and first slices, `(N,)` int64 each, ordered by id, then by slice.
    """
    n_windows = len(targets) - window_length + 1
    if n_windows < 1:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ids, areas_px = slice_areas(targets)
    areas_px[excluded] = 0
    held = np.ones((n_windows, len(ids)), dtype=bool)
    large = np.zeros_like(held)
    for offset in range(window_length):
        areas = areas_px[offset : offset + n_windows]
        held &= areas > 0
        large |= areas >= min_size_px
    # Transposed, so that the windows of one target lie side by side.
    columns, starts = np.nonzero((held & large).T)
    return ids[columns], starts


def slice_areas(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of every target in every slice.

    Args:
        targets: `(Z, H, W)` integers of at least 0; 0 = no target and not counted.

    Returns:
        The ids `(K,)` int64, increasing (those up to the largest that do not occur may be listed with zero
        areas), and the areas `(Z, K)` int64 in pixels.
    """
    largest = int(targets.max(initial=0))
    if largest <= _MAX_DIRECT_ID:
        ids, dense = np.arange(largest + 1), targets
    else:
        ids, dense = np.unique(targets, return_inverse=True)
        # Some NumPy versions return the positions flat.
        dense = dense.reshape(targets.shape)
    areas = np.stack([np.bincount(image.ravel(), minlength=len(ids)) for image in dense])
    is_target = ids > 0
    return ids[is_target].astype(np.int64), areas[:, is_target]


def excluded_slices(label_map: np.ndarray, labels: Sequence[int], rule: str) -> np.ndarray:
    """Tell which slices hold test organs; training must not see them (setting II).

    Args:
        label_map: `(Z, H, W)` integers.
        labels: the test organs' labels; none excludes nothing.
        rule: "any": a slice with at least one of them is excluded; "all": only a slice with every one.

    Returns:
        `(Z,)` bool.
    """
    if not labels:
        return np.zeros(len(label_map), dtype=bool)
    holds = np.stack([(label_map == label).any(axis=(1, 2)) for label in labels])
    return holds.any(axis=0) if rule == "any" else holds.all(axis=0)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
