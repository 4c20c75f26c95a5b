# cython: language_level=3, boundscheck=False, wraparound=False
"""Both passes over a sorted edge list, as in the textbook."""

import numpy as np


cdef long find(long[::1] parent, long voxel) noexcept nogil:
    cdef long root = voxel
    cdef long next_voxel
    while parent[root] != root:
        root = parent[root]
    while parent[voxel] != root:  # path compression
        next_voxel = parent[voxel]
        parent[voxel] = root
        voxel = next_voxel
    return root


def merge_edges(const long[:, ::1] edges, const double[::1] weights, long n_voxels, *, double k, long min_size):
    """Return each voxel's root after both passes.

    Args:
        edges: `(E, 2)` raster indices of both voxels, in order of increasing weight.
        weights: `(E,)`.
        n_voxels: number of voxels in the volume.
        k: constant of the merge criterion.
        min_size: minimum segment size in voxels.
    """
    cdef long[::1] parent = np.arange(n_voxels)
    cdef long[::1] size = np.ones(n_voxels, dtype=np.int64)
    cdef double[::1] internal = np.zeros(n_voxels)
    cdef Py_ssize_t edge
    cdef long a, b, voxel
    with nogil:
        for edge in range(weights.shape[0]):
            a = find(parent, edges[edge, 0])
            b = find(parent, edges[edge, 1])
            if a != b and weights[edge] < min(internal[a] + k / size[a], internal[b] + k / size[b]):
                parent[b] = a
                size[a] += size[b]
                internal[a] = weights[edge]
        for edge in range(weights.shape[0]):
            a = find(parent, edges[edge, 0])
            b = find(parent, edges[edge, 1])
            if a != b and min(size[a], size[b]) < min_size:
                parent[b] = a
                size[a] += size[b]
        for voxel in range(n_voxels):
            parent[voxel] = find(parent, voxel)
    return np.asarray(parent)
