"""Segment by a list of all edges and a general sort.

The twins of the kernel in `data/supervoxels`: the textbook's way, as one writes it first with NumPy and
Cython, and a tight one, which is the same list with 32-bit indices, float32 weights, both scans in one loop
and shorter paths. Both sort stably, so ties go by direction and then by raster order as they must.
"""

from collections.abc import Iterator

import numpy as np

from data.supervoxels.segmentation import DIRECTIONS, weight_factors

K = 1.0 / 255.0


def segment_by_textbook(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int
) -> np.ndarray:
    """Segment with int64 pairs and float64 weights; returns each voxel's root, flat.

    Weights are computed in float32 and stored as float64, so that ties are the same ties.
    """
    import supervoxels_textbook  # compiled when the benchmark starts

    voxel = np.arange(volume.size).reshape(volume.shape)
    edges, weights = [], []
    for here, there, factor in _neighbours(volume.shape, spacing_mm):
        edges.append(np.stack([voxel[here].ravel(), voxel[there].ravel()], axis=1))
        weights.append((np.abs(volume[here] - volume[there]) * factor).astype(np.float64).ravel())
    edges = np.concatenate(edges)
    weights = np.concatenate(weights)
    order = np.argsort(weights, kind="stable")
    edges = edges[order]
    weights = weights[order]
    return supervoxels_textbook.join_edges(edges, weights, volume.size, k=K, min_size=min_size_vox)


def segment_by_tight_edge_list(
    volume: np.ndarray, spacing_mm: tuple[float, float, float], *, min_size_vox: int
) -> np.ndarray:
    """Segment with int32 pairs and float32 weights; returns each voxel's root, flat."""
    import supervoxels_edge_list  # compiled when the benchmark starts

    voxel = np.arange(volume.size, dtype=np.int32).reshape(volume.shape)
    firsts, seconds, weights = [], [], []
    for here, there, factor in _neighbours(volume.shape, spacing_mm):
        firsts.append(voxel[here].ravel())
        seconds.append(voxel[there].ravel())
        weights.append((np.abs(volume[here] - volume[there]) * factor).ravel())
    weight = np.concatenate(weights)
    order = np.argsort(weight, kind="stable")
    first, second = np.concatenate(firsts)[order], np.concatenate(seconds)[order]
    return supervoxels_edge_list.join_edges(first, second, weight[order], k=K, min_size=min_size_vox)


def _neighbours(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], np.float32]]:
    """Yield, for each direction, where its edges start and end, and the factor of their weights."""
    for step, factor in zip(DIRECTIONS, weight_factors(spacing_mm), strict=True):
        here = tuple(slice(max(0, -d), size - max(0, d)) for d, size in zip(step, shape, strict=True))
        there = tuple(slice(max(0, d), size + min(0, d)) for d, size in zip(step, shape, strict=True))
        yield here, there, factor
