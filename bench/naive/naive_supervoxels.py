"""Felzenszwalb supervoxels from an explicit, sorted list of all edges.

Naive counterparts of `data.supervoxels`: the textbook implementation with int64 pairs and float64 weights,
and a compact one with int32 and float32, which also runs both passes in one loop. Both sort stably, so that
ties are resolved by direction, then in raster order, as in ours.
"""

from collections.abc import Iterator

import numpy as np

from data.supervoxels.segmentation import DIRECTIONS, weight_factors

K = 1.0 / 255.0


def segment_textbook(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int
) -> np.ndarray:
    """Segment with int64 pairs and float64 weights; returns each voxel's root, flat.

    Weights are computed in float32 like ours, so that the same edges tie.
    """
    import supervoxels_textbook  # compiled by `bench.supervoxels`

    voxel = np.arange(volume.size).reshape(volume.shape)
    edges, weights = [], []
    for first, second, factor in _neighbours(volume.shape, spacing_mm):
        edges.append(np.stack([voxel[first].ravel(), voxel[second].ravel()], axis=1))
        weights.append((np.abs(volume[first] - volume[second]) * factor).astype(np.float64).ravel())
    edges = np.concatenate(edges)
    weights = np.concatenate(weights)
    order = np.argsort(weights, kind="stable")
    edges = edges[order]
    weights = weights[order]
    return supervoxels_textbook.merge_edges(edges, weights, volume.size, k=K, min_size=min_size_vox)


def segment_compact(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int
) -> np.ndarray:
    """Segment with int32 pairs and float32 weights; returns each voxel's root, flat."""
    import supervoxels_compact  # compiled by `bench.supervoxels`

    voxel = np.arange(volume.size, dtype=np.int32).reshape(volume.shape)
    firsts, seconds, weights = [], [], []
    for first, second, factor in _neighbours(volume.shape, spacing_mm):
        firsts.append(voxel[first].ravel())
        seconds.append(voxel[second].ravel())
        weights.append((np.abs(volume[first] - volume[second]) * factor).ravel())
    weight = np.concatenate(weights)
    order = np.argsort(weight, kind="stable")
    first, second = np.concatenate(firsts)[order], np.concatenate(seconds)[order]
    return supervoxels_compact.merge_edges(first, second, weight[order], k=K, min_size=min_size_vox)


def _neighbours(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], np.float32]]:
    """Yield, for each direction, the slices of both ends of its edges and their weight factor."""
    for step, factor in zip(DIRECTIONS, weight_factors(spacing_mm), strict=True):
        first = tuple(slice(max(0, -d), size - max(0, d)) for d, size in zip(step, shape, strict=True))
        second = tuple(slice(max(0, d), size + min(0, d)) for d, size in zip(step, shape, strict=True))
        yield first, second, factor
