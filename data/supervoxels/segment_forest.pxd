"""Segments as trees of voxels (union-find), and the rules by which an edge joins two in the first scan."""

from libc.stdint cimport int32_t, int64_t

cdef struct Forest:
    int32_t* parent  # of a root: minus its segment's size
    float* highest  # of a root: largest weight joined in its segment
    double k


cdef inline void join(Forest* forest, int32_t voxel, int32_t other, float weight) noexcept nogil:
    """Join the segments at both ends of an edge if the weight is small enough for both."""
    cdef int32_t a = find(forest.parent, voxel)
    cdef int32_t b = find(forest.parent, other)
    if a == b or weight >= threshold(forest, a) or weight >= threshold(forest, b):
        return
    if forest.parent[a] > forest.parent[b]:
        a, b = b, a
    forest.parent[a] += forest.parent[b]
    forest.parent[b] = a
    forest.highest[a] = weight  # weights increase, so the last is the largest


cdef inline double threshold(const Forest* forest, Py_ssize_t root) noexcept nogil:
    return forest.highest[root] + forest.k / -forest.parent[root]


cdef inline int32_t find(int32_t* parent, int32_t voxel) noexcept nogil:
    """Return the voxel's root, halving the path to it."""
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
