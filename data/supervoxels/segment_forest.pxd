"""Union-find forest of segments, and the criterion of the merging pass."""

from libc.stdint cimport int32_t, int64_t

cdef struct Forest:
    int32_t* parent  # at a root: minus the size of its segment
    float* max_weight  # at a root: maximum weight merged in its segment
    double k


cdef inline void merge(Forest* forest, int32_t voxel, int32_t other, float weight) noexcept nogil:
    """Merge the segments at both ends of an edge if its weight is below both thresholds."""
    cdef int32_t a = find(forest.parent, voxel)
    cdef int32_t b = find(forest.parent, other)
    if a == b or weight >= threshold(forest, a) or weight >= threshold(forest, b):
        return
    if forest.parent[a] > forest.parent[b]:
        a, b = b, a
    forest.parent[a] += forest.parent[b]
    forest.parent[b] = a
    forest.max_weight[a] = weight  # weights increase, so the last is the maximum


cdef inline double threshold(const Forest* forest, Py_ssize_t root) noexcept nogil:
    return forest.max_weight[root] + forest.k / -forest.parent[root]


cdef inline int32_t find(int32_t* parent, int32_t voxel) noexcept nogil:
    """Return the root of a voxel, with path halving."""
    cdef int32_t up = parent[voxel]
    cdef int32_t further
    while up >= 0:
        further = parent[up]
        if further < 0:
            return up
        parent[voxel] = further
        voxel = further
        up = parent[voxel]
    return voxel
