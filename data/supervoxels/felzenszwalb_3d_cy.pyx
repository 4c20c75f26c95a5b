# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Felzenszwalb's graph segmentation of a 3D volume, over edges that are never listed.

Source: Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004.
`segmentation.py` holds the validated door to this file, and the table of directions.

An edge is the pair (direction, raster index of its first voxel); its weight is recomputed whenever it is
needed, which costs less than fetching it. A scan goes through the edges in increasing weight, a *round* at a
time: count the living edges by weight, take as many of the lightest as the buffer holds, sort and join
them. Weights are never negative, so their float32 bit patterns sort as they do. An edge is dead when
nothing can join its ends any more: they lie in one segment or, in the second scan, both in segments that are
large enough. Death is final, hence leaving the dead out changes nothing, and soon most edges are dead.

Weights are float32; the merge criterion is compared in float64. Nothing here depends on the machine.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from data.supervoxels.edge_weights cimport as_weight, sort_by_weight, weight_bits
from data.supervoxels.segment_forest cimport Forest, find, join, start_absorbing, threshold

import numpy as np

KERNEL_VERSION = 1  # that of `data.supervoxels.ALGORITHM_VERSION`; shows a build from older source
MAX_VOXELS = 1 << 28

cdef enum:
    N_DIRECTIONS = 13
    DIRECTION_SHIFT = 28  # an edge in 32 bits: 4 for the direction, 28 for the voxel
    VOXEL_MASK = (1 << 28) - 1
    BIN_SHIFT = 15  # a float32's sign is 0 here, so 31 bits in 2^16 bins of 2^15 values
    N_BINS = 1 << 16
    HIGHEST_BITS = 0x7F800000  # of +infinity

cdef struct Walk:
    const float* intensity
    int32_t* label  # equal at both ends of a dead edge
    Py_ssize_t[3] shape
    int[N_DIRECTIONS][3] offset
    float[N_DIRECTIONS] factor
    uint32_t low  # the weights of interest: bits in low .. low + span
    uint32_t span
    int shift
    uint32_t* histogram
    uint64_t* entries  # (bits - low) << 32 | direction << 28 | voxel
    Py_ssize_t n_entries
    Forest* forest

ctypedef void (*RowAction)(Walk*, int, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil


def segment(
    const float[:, :, ::1] volume, const int[:, ::1] directions, const float[::1] factors, *,
    double k, int64_t min_size, Py_ssize_t capacity,
):
    """Segment a volume; see `segmentation.segment_supervoxels`, which checks the arguments.

    Args:
        volume: `(Z, H, W)`, finite, at least one and at most MAX_VOXELS voxels.
        directions: `(13, 3)` steps `(z, y, x)` in order of precedence, each forward in raster order.
        factors: `(13,)` factor of the directions' weights, finite and not negative.
        k: the merge criterion's constant.
        min_size: in voxels.
        capacity: edges sorted at a time, at least 1; memory is 16 bytes times it. Changes no result.

    Returns:
        Segment ids `(Z, H, W)`, int32, 0, 1, 2, ... by first appearance in raster order.
    """
    cdef Py_ssize_t n_voxels = volume.shape[0] * volume.shape[1] * volume.shape[2]
    labels = np.empty((volume.shape[0], volume.shape[1], volume.shape[2]), dtype=np.int32)
    cdef int32_t[:, :, ::1] label = labels
    cdef int32_t[::1] parent = np.full(n_voxels, -1, dtype=np.int32)
    cdef float[::1] highest = np.zeros(n_voxels, dtype=np.float32)
    cdef uint32_t[::1] histogram = np.empty(N_BINS, dtype=np.uint32)
    cdef uint64_t[::1] entries = np.empty(capacity, dtype=np.uint64)
    cdef uint64_t[::1] scratch = np.empty(capacity, dtype=np.uint64)
    cdef Forest forest = Forest(
        parent=&parent[0], highest=&highest[0], k=k, min_size=min_size,
        absorbing=False, n_segments=n_voxels, n_small=0,
    )
    cdef Walk walk
    cdef int direction, axis
    walk.intensity = &volume[0, 0, 0]
    walk.label = &label[0, 0, 0]
    walk.histogram = &histogram[0]
    walk.entries = &entries[0]
    walk.forest = &forest
    for axis in range(3):
        walk.shape[axis] = volume.shape[axis]
        for direction in range(N_DIRECTIONS):
            walk.offset[direction][axis] = directions[direction, axis]
    for direction in range(N_DIRECTIONS):
        walk.factor[direction] = factors[direction]
    scan(&walk, &scratch[0], capacity)
    start_absorbing(&forest, n_voxels)
    scan(&walk, &scratch[0], capacity)
    number_segments(&walk)
    return labels


cdef int scan(Walk* walk, uint64_t* scratch, Py_ssize_t capacity) except -1:
    """Visit all living edges in increasing weight, as many at a time as the buffers hold."""
    cdef uint64_t low = 0  # 64 bits: it ends beyond the highest weight
    cdef int64_t n_taken
    while low <= HIGHEST_BITS:
        PyErr_CheckSignals()
        with nogil:
            label_voxels(walk)
            walk.low, walk.span, walk.shift = low, HIGHEST_BITS - low, BIN_SHIFT
            # Twice: before any edge is looked at, and when the lightest living one is known.
            if is_finished(walk) or not choose_weights(walk, capacity, &n_taken) or is_finished(walk):
                break
            if n_taken > capacity:
                visit_edges(walk, join_row)  # one weight only: the edges stand in order as they are
            else:
                walk.n_entries = 0
                visit_edges(walk, collect_row)
                join_entries(walk, sort_by_weight(walk.entries, scratch, walk.n_entries, walk.span))
            low = <uint64_t>walk.low + walk.span + 1
    return 0


cdef bint is_finished(Walk* walk) noexcept nogil:
    """Tell whether no edge of the weights of interest or heavier can join anything."""
    cdef Forest* forest = walk.forest
    cdef Py_ssize_t n_voxels = walk.shape[0] * walk.shape[1] * walk.shape[2]
    cdef Py_ssize_t voxel
    cdef double lightest = as_weight(walk.low)
    if forest.n_segments == 1:
        return True
    if forest.absorbing:
        return forest.n_small == 0
    for voxel in range(n_voxels):
        if forest.parent[voxel] < 0 and lightest < threshold(forest, voxel):
            return False
    return True


cdef bint choose_weights(Walk* walk, int64_t capacity, int64_t* n_taken) noexcept nogil:
    """Narrow the weights of interest to the lightest living edges that fit; tell whether there are any.

    A single weight may have more edges than fit, and is then chosen alone.
    """
    if not narrow_to_bins(walk, capacity, n_taken):
        return False
    if n_taken[0] > capacity:  # one bin: look at its single weights
        walk.shift = 0
        narrow_to_bins(walk, capacity, n_taken)
    return True


cdef bint narrow_to_bins(Walk* walk, int64_t capacity, int64_t* n_taken) noexcept nogil:
    """Narrow to the lightest bins of 2^shift weights with `capacity` edges, but one non-empty bin at least."""
    cdef int64_t first = 0
    cdef int64_t end
    memset(walk.histogram, 0, N_BINS * sizeof(uint32_t))
    visit_edges(walk, count_row)
    while first < N_BINS and walk.histogram[first] == 0:
        first += 1
    if first == N_BINS:
        return False
    end = first
    n_taken[0] = 0
    while end < N_BINS and (end == first or n_taken[0] + walk.histogram[end] <= capacity):
        n_taken[0] += walk.histogram[end]
        end += 1
    walk.low += <uint32_t>(first << walk.shift)
    walk.span = <uint32_t>(((end - first) << walk.shift) - 1)
    return True


cdef void visit_edges(Walk* walk, RowAction act) noexcept nogil:
    """Apply `act` to each row of each direction's edges: in direction order, then raster order."""
    cdef Py_ssize_t height = walk.shape[1]
    cdef Py_ssize_t width = walk.shape[2]
    cdef Py_ssize_t dz, dy, dx, z, y, x
    cdef int direction
    for direction in range(N_DIRECTIONS):
        dz, dy, dx = walk.offset[direction][0], walk.offset[direction][1], walk.offset[direction][2]
        x = max(0, -dx)
        for z in range(walk.shape[0] - dz):
            for y in range(max(0, -dy), height - max(0, dy)):
                act(
                    walk, direction, (z * height + y) * width + x,
                    (dz * height + dy) * width + dx, width - x - max(0, dx),
                )


cdef void count_row(
    Walk* walk, int direction, Py_ssize_t first, Py_ssize_t step, Py_ssize_t length
) noexcept nogil:
    cdef const float* intensity = walk.intensity
    cdef const int32_t* label = walk.label
    cdef uint32_t* histogram = walk.histogram
    cdef float factor = walk.factor[direction]
    cdef uint32_t low = walk.low
    cdef uint32_t span = walk.span
    cdef int shift = walk.shift
    cdef uint32_t above
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        above = weight_bits(intensity[voxel], intensity[voxel + step], factor) - low
        if (label[voxel] != label[voxel + step]) & (above <= span):
            histogram[above >> shift] += 1


cdef void collect_row(
    Walk* walk, int direction, Py_ssize_t first, Py_ssize_t step, Py_ssize_t length
) noexcept nogil:
    cdef const float* intensity = walk.intensity
    cdef const int32_t* label = walk.label
    cdef uint64_t* entries = walk.entries
    cdef float factor = walk.factor[direction]
    cdef uint32_t low = walk.low
    cdef uint32_t span = walk.span
    cdef uint64_t code = <uint64_t>direction << DIRECTION_SHIFT
    cdef Py_ssize_t n_entries = walk.n_entries
    cdef uint32_t above
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        above = weight_bits(intensity[voxel], intensity[voxel + step], factor) - low
        if (label[voxel] != label[voxel + step]) & (above <= span):
            entries[n_entries] = (<uint64_t>above << 32) | code | <uint64_t>voxel
            n_entries += 1
    walk.n_entries = n_entries


cdef void join_row(
    Walk* walk, int direction, Py_ssize_t first, Py_ssize_t step, Py_ssize_t length
) noexcept nogil:
    cdef float factor = walk.factor[direction]
    cdef uint32_t bits
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        bits = weight_bits(walk.intensity[voxel], walk.intensity[voxel + step], factor)
        if (walk.label[voxel] != walk.label[voxel + step]) & (bits == walk.low):
            join(walk.forest, <int32_t>voxel, <int32_t>(voxel + step), as_weight(bits))


cdef void join_entries(Walk* walk, const uint64_t* entries) noexcept nogil:
    cdef Py_ssize_t[N_DIRECTIONS + 3] step  # 16: whatever four bits may say
    cdef Py_ssize_t i
    cdef int32_t voxel
    for i in range(N_DIRECTIONS):
        step[i] = (walk.offset[i][0] * walk.shape[1] + walk.offset[i][1]) * walk.shape[2] + walk.offset[i][2]
    for i in range(walk.n_entries):
        voxel = entries[i] & VOXEL_MASK
        join(
            walk.forest, voxel, <int32_t>(voxel + step[(entries[i] >> DIRECTION_SHIFT) & 15]),
            as_weight(walk.low + <uint32_t>(entries[i] >> 32)),
        )


cdef void label_voxels(Walk* walk) noexcept nogil:
    """Label voxels by their root, in the second scan -1 if its segment is large enough."""
    cdef Forest* forest = walk.forest
    cdef Py_ssize_t n_voxels = walk.shape[0] * walk.shape[1] * walk.shape[2]
    cdef Py_ssize_t voxel
    cdef int32_t root
    for voxel in range(n_voxels):
        root = find(forest.parent, <int32_t>voxel)
        if root != voxel:
            forest.parent[voxel] = root
        if forest.absorbing and -forest.parent[root] >= forest.min_size:
            root = -1
        walk.label[voxel] = root


cdef void number_segments(Walk* walk) noexcept nogil:
    """Turn labels into ids 0, 1, 2, ... by first appearance in raster order."""
    cdef Py_ssize_t n_voxels = walk.shape[0] * walk.shape[1] * walk.shape[2]
    cdef Py_ssize_t voxel
    cdef int32_t root
    cdef int32_t n_ids = 0
    for voxel in range(n_voxels):
        walk.label[voxel] = -1
    for voxel in range(n_voxels):
        root = find(walk.forest.parent, <int32_t>voxel)
        if walk.label[root] < 0:
            walk.label[root] = n_ids
            n_ids += 1
        walk.label[voxel] = walk.label[root]
