# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Felzenszwalb's graph segmentation of a 3D volume, over edges that are never listed.

Source: Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004.
`segmentation.py` holds the validated door to this file, and the table of directions.

An edge is the pair (direction, raster index of its first voxel); its weight is recomputed whenever it is
needed, which costs less than fetching it. Weights are never negative, so their float32 bit patterns sort as
they do.

The first scan joins neighbours of equal intensity. Then it goes through the edges in increasing weight, a
*round* at a time: count the living edges by weight, take as many of the lightest as the buffer holds, sort
and join them. An edge is dead when its ends lie in one segment; death is final, hence leaving the dead out
changes nothing. Where grey levels are whole numbers and the scale is small, no other weight is light enough,
and there is no such round. The second scan needs the edges of a spanning tree alone: see `spanning_tree.pxd`.

Weights are float32; the merge criterion is compared in float64. Nothing here depends on the machine.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from data.supervoxels.edge_weights cimport as_bits, as_weight, sort_entries, weight_bits
from data.supervoxels.equal_voxels cimport join_equal
from data.supervoxels.lightest_edges cimport find_everywhere
from data.supervoxels.segment_forest cimport Forest, find, join, threshold
from data.supervoxels.small_segments cimport join_small
from data.supervoxels.spanning_tree cimport Tree
from data.supervoxels.voxel_grid cimport (
    DIRECTION_SHIFT, N_DIRECTIONS, VOXEL_MASK, Grid, end_x, first_x, has_row, make_grid,
)

import numpy as np

KERNEL_VERSION = 1  # that of `data.supervoxels.ALGORITHM_VERSION`; shows a build from older source
MAX_VOXELS = 1 << 28

cdef enum:
    BIN_SHIFT = 15  # a float32's sign is 0 here, so 31 bits in 2^16 bins of 2^15 values
    N_BINS = 1 << 16
    HIGHEST_BITS = 0x7F800000  # of +infinity

cdef struct Walk:
    const Grid* grid
    int32_t* label  # equal at both ends of a dead edge
    uint32_t low  # the weights of interest: bits in low .. low + span
    uint32_t span
    int shift
    uint32_t* histogram
    uint64_t* entries  # (bits - low) << 32 | direction << 28 | voxel
    Py_ssize_t n_entries
    Forest* forest

ctypedef void (*RowAction)(Walk*, int, Py_ssize_t, Py_ssize_t) noexcept nogil


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
    cdef Grid grid = make_grid(volume, directions, factors)
    labels = np.empty((volume.shape[0], volume.shape[1], volume.shape[2]), dtype=np.int32)
    cdef int32_t[:, :, ::1] label = labels
    cdef int32_t[::1] parent = np.full(grid.n_voxels, -1, dtype=np.int32)
    cdef uint8_t[::1] step_of = np.empty(grid.n_voxels, dtype=np.uint8)
    cdef int32_t[:, ::1] rows = np.empty((2, grid.shape[2]), dtype=np.int32)
    # Zeroed memory is not held before it is written to, and few segments have a largest weight above 0.
    cdef float[::1] highest = np.zeros(grid.n_voxels, dtype=np.float32)
    cdef Forest forest = Forest(parent=&parent[0], highest=&highest[0], k=k)
    cdef Walk walk
    cdef uint32_t lightest
    cdef int64_t n_segments
    walk.grid, walk.forest, walk.label = &grid, &forest, &label[0, 0, 0]
    with nogil:
        if k / grid.n_voxels > 0.0:
            join_equal(&grid, &forest, &rows[0, 0])
        label_voxels(&walk)
        lightest = find_everywhere(&grid, walk.label, &step_of[0], &rows[0, 0], &rows[1, 0])
    if lightest <= highest_joined(k):
        scan(&walk, capacity, highest_joined(k))
    n_segments = number_segments(&walk)
    absorb(&walk, n_segments, min_size, &step_of[0], rows)
    return labels


cdef int absorb(
    Walk* walk, Py_ssize_t n_segments, int64_t min_size, uint8_t* step_of, int32_t[:, ::1] rows
) except -1:
    """Do the second scan, from segments numbered by first appearance to such ones."""
    cdef int32_t[:, ::1] ids = np.empty((2, n_segments), dtype=np.int32)
    cdef uint64_t[:, ::1] ranks = np.empty((2, n_segments), dtype=np.uint64)
    cdef Tree tree = Tree(
        edges=&ranks[0, 0], n_edges=0, part=walk.forest.parent, n_parts=<int32_t>n_segments, step_of=step_of,
        size=&ids[0, 0], joined=&ids[1, 0], lightest=&ranks[1, 0],
    )  # the forest's memory is free by now
    return join_small(walk.grid, &tree, walk.label, min_size, &rows[0, 0], &rows[1, 0])


cdef uint32_t highest_joined(double k) noexcept:
    """Return bits of a weight that the first scan never reaches.

    By induction a segment of n voxels has no joined weight above 2 k (1 - 1/n): the weight that made it of
    two is below the tolerance of the smaller one, which has n/2 voxels at most: 2 k (1 - 2/n) + k / (n/2).
    """
    cdef double bound = 2.000001 * k  # more than all rounding
    return min(<uint32_t>HIGHEST_BITS, as_bits(<float>bound) + 1)


cdef int scan(Walk* walk, Py_ssize_t capacity, uint32_t highest_bits) except -1:
    """Visit all living edges in increasing weight, as many at a time as the buffers hold."""
    cdef uint32_t[::1] histogram = np.empty(N_BINS, dtype=np.uint32)
    cdef uint64_t[:, ::1] buffers = np.empty((2, capacity), dtype=np.uint64)
    cdef uint64_t low = 0  # 64 bits: it ends beyond the highest weight
    cdef int64_t n_taken
    walk.histogram = &histogram[0]
    walk.entries = &buffers[0, 0]
    while low <= highest_bits:
        PyErr_CheckSignals()
        with nogil:
            label_voxels(walk)
            walk.low, walk.span, walk.shift = low, highest_bits - low, BIN_SHIFT
            # Twice: before any edge is looked at, and when the lightest living one is known.
            if is_finished(walk) or not choose_weights(walk, capacity, &n_taken) or is_finished(walk):
                break
            if n_taken > capacity:
                visit_edges(walk, join_row)  # one weight only: the edges stand in order as they are
            else:
                walk.n_entries = 0
                visit_edges(walk, collect_row)
                join_entries(walk, sort_entries(
                    walk.entries, &buffers[1, 0], walk.n_entries, 32, <uint64_t>walk.span << 32
                ))
            low = <uint64_t>walk.low + walk.span + 1
    return 0


cdef bint is_finished(Walk* walk) noexcept nogil:
    """Tell whether no edge of the weights of interest or heavier can join anything."""
    cdef Forest* forest = walk.forest
    cdef Py_ssize_t voxel
    cdef double lightest = as_weight(walk.low)
    for voxel in range(walk.grid.n_voxels):
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
    """Narrow to the lightest bins of 2^shift weights with `capacity` edges, one non-empty bin at least."""
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
    walk.span = <uint32_t>min(walk.span - (first << walk.shift), ((end - first) << walk.shift) - 1)
    return True


cdef void visit_edges(Walk* walk, RowAction act) noexcept nogil:
    """Apply `act` to each row of each direction's edges: in direction order, then raster order."""
    cdef const Grid* grid = walk.grid
    cdef Py_ssize_t z, y, begin
    cdef int step
    for step in range(1, 2 * N_DIRECTIONS, 2):
        begin = first_x(grid, step)
        for z in range(grid.shape[0]):
            for y in range(grid.shape[1]):
                if has_row(grid, step, z, y):
                    act(
                        walk, step, (z * grid.shape[1] + y) * grid.shape[2] + begin,
                        end_x(grid, step) - begin,
                    )


cdef void count_row(Walk* walk, int step, Py_ssize_t first, Py_ssize_t length) noexcept nogil:
    cdef const float* intensity = walk.grid.intensity
    cdef const int32_t* label = walk.label
    cdef uint32_t* histogram = walk.histogram
    cdef Py_ssize_t stride = walk.grid.stride[step]
    cdef float factor = walk.grid.factor[step]
    cdef uint32_t low = walk.low
    cdef uint32_t span = walk.span
    cdef int shift = walk.shift
    cdef uint32_t above
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        above = weight_bits(intensity[voxel], intensity[voxel + stride], factor) - low
        if (label[voxel] != label[voxel + stride]) & (above <= span):
            histogram[above >> shift] += 1


cdef void collect_row(Walk* walk, int step, Py_ssize_t first, Py_ssize_t length) noexcept nogil:
    cdef const float* intensity = walk.grid.intensity
    cdef const int32_t* label = walk.label
    cdef uint64_t* entries = walk.entries
    cdef Py_ssize_t stride = walk.grid.stride[step]
    cdef float factor = walk.grid.factor[step]
    cdef uint32_t low = walk.low
    cdef uint32_t span = walk.span
    cdef uint64_t code = <uint64_t>(step >> 1) << DIRECTION_SHIFT
    cdef Py_ssize_t n_entries = walk.n_entries
    cdef uint32_t above
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        above = weight_bits(intensity[voxel], intensity[voxel + stride], factor) - low
        if (label[voxel] != label[voxel + stride]) & (above <= span):
            entries[n_entries] = (<uint64_t>above << 32) | code | <uint64_t>voxel
            n_entries += 1
    walk.n_entries = n_entries


cdef void join_row(Walk* walk, int step, Py_ssize_t first, Py_ssize_t length) noexcept nogil:
    cdef const float* intensity = walk.grid.intensity
    cdef Py_ssize_t stride = walk.grid.stride[step]
    cdef uint32_t bits
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        bits = weight_bits(intensity[voxel], intensity[voxel + stride], walk.grid.factor[step])
        if (walk.label[voxel] != walk.label[voxel + stride]) & (bits == walk.low):
            join(walk.forest, <int32_t>voxel, <int32_t>(voxel + stride), as_weight(bits))


cdef void join_entries(Walk* walk, const uint64_t* entries) noexcept nogil:
    cdef Py_ssize_t i, stride
    cdef int32_t voxel
    for i in range(walk.n_entries):
        voxel = entries[i] & VOXEL_MASK
        stride = walk.grid.stride[2 * ((entries[i] >> DIRECTION_SHIFT) & 15) + 1]
        join(
            walk.forest, voxel, <int32_t>(voxel + stride),
            as_weight(walk.low + <uint32_t>(entries[i] >> 32)),
        )


cdef void label_voxels(Walk* walk) noexcept nogil:
    """Label voxels by their root."""
    cdef int32_t* parent = walk.forest.parent
    cdef Py_ssize_t voxel
    cdef int32_t root
    for voxel in range(walk.grid.n_voxels):
        root = find(parent, <int32_t>voxel)
        if root != voxel:
            parent[voxel] = root
        walk.label[voxel] = root


cdef int64_t number_segments(Walk* walk) noexcept nogil:
    """Turn labels into ids 0, 1, 2, ... by first appearance in raster order; return how many there are."""
    cdef Py_ssize_t voxel
    cdef int32_t root
    cdef int32_t n_ids = 0
    for voxel in range(walk.grid.n_voxels):
        walk.label[voxel] = -1
    for voxel in range(walk.grid.n_voxels):
        root = find(walk.forest.parent, <int32_t>voxel)
        if walk.label[root] < 0:
            walk.label[root] = n_ids
            n_ids += 1
        walk.label[voxel] = walk.label[root]
    return n_ids
