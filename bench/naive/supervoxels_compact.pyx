# cython: language_level=3, boundscheck=False, wraparound=False
"""Both passes over a sorted edge list, with 32-bit indices and weights."""

import numpy as np


cdef int find(int[::1] parent, int voxel) noexcept nogil:
    while parent[voxel] != voxel:
        parent[voxel] = parent[parent[voxel]]
        voxel = parent[voxel]
    return voxel


def merge_edges(const int[::1] first, const int[::1] second, const float[::1] weight, *, double k, int min_size):
    """Return each voxel's root after both passes over edges of increasing weight."""
    n_voxels = max(np.asarray(first).max(), np.asarray(second).max()) + 1
    cdef int[::1] parent = np.arange(n_voxels, dtype=np.int32)
    cdef int[::1] size = np.ones(n_voxels, dtype=np.int32)
    cdef float[::1] highest = np.zeros(n_voxels, dtype=np.float32)
    cdef Py_ssize_t edge
    cdef int a, b, merge_pass
    with nogil:
        for merge_pass in range(2):
            for edge in range(weight.shape[0]):
                a = find(parent, first[edge])
                b = find(parent, second[edge])
                if a == b:
                    continue
                if merge_pass == 0:
                    if not (weight[edge] < highest[a] + k / size[a] and weight[edge] < highest[b] + k / size[b]):
                        continue
                elif size[a] >= min_size and size[b] >= min_size:
                    continue
                if size[a] < size[b]:
                    a, b = b, a
                parent[b] = a
                size[a] += size[b]
                highest[a] = weight[edge]
        for a in range(parent.shape[0]):
            parent[a] = find(parent, a)
    return np.asarray(parent)
