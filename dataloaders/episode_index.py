"""Index every window of slices that an episode may be sampled from.

A target is a supervoxel, or an organ when training uses manual labels. A scan may have several overlapping
sets of targets, such as supervoxels of several sizes. A window is a few slices in equal steps; the step is
its gap.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Which slices with test organs training must not see: those with any, or only those with all of them.
EXCLUDE_RULES = {"any": np.any, "all": np.all}
# Up to this id, counting by id directly is cheaper than making the ids dense first.
_MAX_DIRECT_ID = 1 << 16


@dataclass(frozen=True, eq=False)
class EpisodeWindow:
    """The target and slices of one episode.

    Attributes:
        scan_position: the scan's position in the list of scans.
        set_position: the position of the target's set among the scan's sets.
        target_id: the target's value in the set's volume.
        slices: `(window_length,)` int64, in increasing or decreasing order.
    """

    scan_position: int
    set_position: int
    target_id: int
    slices: np.ndarray


@dataclass(frozen=True, eq=False)
class EpisodeIndex:
    """All eligible windows as flat arrays.

    Nested like compressed sparse rows: scans own sets, sets own targets, targets own gaps, gaps own windows.
    An owner without any window is omitted.

    Attributes:
        scan_positions: `(S,)` the scans' positions in the list of scans.
        set_offsets: `(S + 1,)` offsets of each scan's sets.
        set_positions: `(V,)` the sets' positions among all sets of their scans.
        target_offsets: `(V + 1,)` offsets of each set's targets.
        target_ids: `(T,)` the targets' values in their volumes.
        gap_offsets: `(T + 1,)` offsets of each target's gaps.
        gaps: `(G,)` steps between neighbouring slices of a window.
        window_offsets: `(G + 1,)` offsets of each gap's windows.
        window_starts: `(N,)` first slice of each window.
        window_length: slices per window.
    """

    scan_positions: np.ndarray
    set_offsets: np.ndarray
    set_positions: np.ndarray
    target_offsets: np.ndarray
    target_ids: np.ndarray
    gap_offsets: np.ndarray
    gaps: np.ndarray
    window_offsets: np.ndarray
    window_starts: np.ndarray
    window_length: int

    def draw(self, generator: np.random.Generator) -> EpisodeWindow:
        """Sample a scan, one of its sets, a target in it, one of its gaps and a window.

        Each is uniform among those of its owner, so that many small supervoxels do not crowd out a set of few
        large ones, nor large gaps a target with small gaps only. A single candidate consumes no random
        number. The slices are reversed with probability 1/2.
        """
        scan = int(generator.integers(len(self.scan_positions)))
        target_set = _draw_owned(self.set_offsets, scan, generator)
        target = _draw_owned(self.target_offsets, target_set, generator)
        gap = _draw_owned(self.gap_offsets, target, generator)
        window = _draw_owned(self.window_offsets, gap, generator)
        start, step = int(self.window_starts[window]), int(self.gaps[gap])
        slices = np.arange(start, start + step * self.window_length, step)
        if generator.random() < 0.5:
            slices = slices[::-1]
        return EpisodeWindow(
            scan_position=int(self.scan_positions[scan]),
            set_position=int(self.set_positions[target_set]),
            target_id=int(self.target_ids[target]),
            slices=slices,
        )


def build_index(
    target_volumes: Sequence[Sequence[np.ndarray]],
    excluded_slices: Sequence[np.ndarray],
    *,
    window_length: int,
    min_size_px: float,
    max_gap: int = 1,
) -> EpisodeIndex:
    """Build the index over scans; see `find_windows` for what counts.

    Args:
        target_volumes: per scan its sets, each `(Z, H, W)` integers, 0 = no target.
        excluded_slices: per scan `(Z,)` bool, slices never to use.
        window_length: slices per window.
        min_size_px: minimum area of the target in at least one of a window's slices.
        max_gap: maximum step between neighbouring slices of a window; 1: consecutive slices.

    Returns:
        The index; empty (no scans) if nothing is eligible.
    """
    # Rows: scan, set, target, gap, first slice. Columns: the windows in lexicographic order of the rows.
    parts = [np.empty((5, 0), dtype=np.int64)]
    for scan_position, (volumes, excluded) in enumerate(zip(target_volumes, excluded_slices, strict=True)):
        for set_position, volume in enumerate(volumes):
            windows = find_windows(
                volume, excluded, window_length=window_length, min_size_px=min_size_px, max_gap=max_gap
            )
            owners = (np.full(windows[0].shape, position) for position in (scan_position, set_position))
            parts.append(np.stack([*owners, *windows]))
    return _index_windows(np.concatenate(parts, axis=1), window_length)


def find_windows(
    targets: np.ndarray, excluded: np.ndarray, *, window_length: int, min_size_px: float, max_gap: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the eligible windows of one set of targets.

    A window is `window_length` slices in equal steps of 1 to `max_gap`, none excluded, all holding the
    target, at least one of them with `min_size_px` pixels of it. Skipped slices do not matter.

    Args:
        targets: `(Z, H, W)` integers, 0 = no target.
        excluded: `(Z,)` bool.
        window_length: at least 2.
        min_size_px: minimum area in pixels.
        max_gap: at least 1.

    Returns:
        The windows' target ids, gaps and first slices, `(N,)` int64 each, ordered by id, gap, slice.
    """
    n_steps = window_length - 1
    max_gap = min(max_gap, (len(targets) - 1) // n_steps)
    if max_gap < 1:
        return (np.empty(0, np.int64),) * 3
    ids, areas_px = count_slice_areas(targets)
    areas_px[excluded] = 0
    eligible = np.zeros((max_gap, *areas_px.shape), dtype=bool)
    for gap in range(1, max_gap + 1):
        n_windows = len(targets) - n_steps * gap
        is_present = np.ones((n_windows, len(ids)), dtype=bool)
        large = np.zeros_like(is_present)
        for offset in range(0, window_length * gap, gap):
            areas = areas_px[offset : offset + n_windows]
            is_present &= areas > 0
            large |= areas >= min_size_px
        eligible[gap - 1, :n_windows] = is_present & large
    # The target axis first, so that the windows of one target are contiguous.
    columns, gaps, starts = np.nonzero(eligible.transpose(2, 0, 1))
    return ids[columns], gaps + 1, starts


def count_slice_areas(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of every target in every slice.

    Args:
        targets: `(Z, H, W)` integers of at least 0; 0 = no target and not counted.

    Returns:
        The ids `(K,)` int64, increasing (ids that do not occur may be included with zero areas), and the
        areas `(Z, K)` int64 in pixels.
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


def find_excluded_slices(label_map: np.ndarray, labels: Sequence[int], rule: str) -> np.ndarray:
    """Find the slices with test organs, which training must not see (setting II).

    Args:
        label_map: `(Z, H, W)` integers.
        labels: the test organs' labels; if empty, nothing is excluded.
        rule: one of `EXCLUDE_RULES`.

    Returns:
        `(Z,)` bool.
    """
    if not labels:
        return np.zeros(len(label_map), dtype=bool)
    contains = np.stack([(label_map == label).any(axis=(1, 2)) for label in labels])
    return EXCLUDE_RULES[rule](contains, axis=0)


def _index_windows(windows: np.ndarray, window_length: int) -> EpisodeIndex:
    """Index windows `(5, N)`, the rows as in `build_index`."""
    firsts = _first_windows(windows[:4])
    scans, sets, targets, gaps = (row[first] for row, first in zip(windows[:4], firsts, strict=True))
    set_offsets, target_offsets, gap_offsets = (
        _offsets(owner, owned) for owner, owned in itertools.pairwise(firsts)
    )
    return EpisodeIndex(
        scan_positions=scans,
        set_offsets=set_offsets,
        set_positions=sets,
        target_offsets=target_offsets,
        target_ids=targets,
        gap_offsets=gap_offsets,
        gaps=gaps,
        window_offsets=np.append(firsts[3], windows.shape[1]),
        window_starts=windows[4].copy(),
        window_length=window_length,
    )


def _first_windows(owners: np.ndarray) -> list[np.ndarray]:
    """Find the first window of each owner.

    Args:
        owners: `(K, N)` the windows' owners in K rows, from the outermost to the innermost.

    Returns:
        Per row the increasing positions at which its owner, or an outer one, changes.
    """
    changed = np.ones(owners.shape, dtype=bool)
    changed[:, 1:] = owners[:, 1:] != owners[:, :-1]
    return [np.flatnonzero(row) for row in np.logical_or.accumulate(changed, axis=0)]


def _offsets(first_of_owners: np.ndarray, first_of_owned: np.ndarray) -> np.ndarray:
    """Compute the owners' offsets, `(K + 1,)`, from their first windows."""
    return np.append(np.searchsorted(first_of_owned, first_of_owners), len(first_of_owned))


def _draw_owned(offsets: np.ndarray, owner: int, generator: np.random.Generator) -> int:
    # Python integers are several times as fast here as NumPy's.
    first, end = offsets[owner : owner + 2].tolist()
    return first if end - first == 1 else int(generator.integers(first, end))
