"""Segments as trees of voxels (union-find), and the rules by which an edge joins two."""

from libc.stdint cimport int32_t, int64_t

cdef struct Forest:
    int32_t* parent  # of a root: minus its segment's size
    float* highest  # of a root: largest weight joined in its segment
    double k
    int64_t min_size
    bint absorbing  # the second scan
    int64_t n_segments
    int64_t n_small


cdef inline void start_absorbing(Forest* forest, Py_ssize_t n_voxels) noexcept nogil:
    cdef Py_ssize_t voxel
    forest.absorbing = True
    for voxel in range(n_voxels):
        if forest.parent[voxel] < 0 and -forest.parent[voxel] < forest.min_size:
            forest.n_small += 1


cdef inline void join(Forest* forest, int32_t voxel, int32_t other, float weight) noexcept nogil:
    """Join the segments at both ends of an edge if the present scan's rule says so."""
    cdef int32_t a = find(forest.parent, voxel)
    cdef int32_t b = find(forest.parent, other)
    cdef int64_t size_a = -forest.parent[a]
    cdef int64_t size_b = -forest.parent[b]
    if a == b:
        return
    if forest.absorbing:
        if size_a >= forest.min_size and size_b >= forest.min_size:
            return
        forest.n_small -= (size_a < forest.min_size) + (size_b < forest.min_size)
        forest.n_small += size_a + size_b < forest.min_size
    elif weight >= threshold(forest, a) or weight >= threshold(forest, b):
        return
    if size_a < size_b:
        a, b = b, a
    forest.parent[a] = <int32_t>-(size_a + size_b)
    forest.parent[b] = a
    forest.highest[a] = weight  # weights increase, so the last is the largest
    forest.n_segments -= 1


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
