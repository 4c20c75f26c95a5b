# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Felzenszwalb's graph segmentation of a 3D volume, without storing the edges.

Source: Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004.
`segmentation.py` is the validated public interface and passes the table of directions.

An edge is a pair (direction, raster index of its start voxel). Its weight is recomputed when needed, which is
faster than loading it. Weights are not negative, so their float32 bit patterns sort like them.

The merging pass first merges neighbours of equal intensity. Then it processes the edges by increasing weight
in *rounds*: count the active edges by weight, select as many of the lightest as fit the buffer, sort them and
merge. An edge is active while its ends are in different segments; inactive edges remain so and are skipped.
With integer intensities and a small scale no other edge can merge, and there are no rounds. The minimum-size
pass needs only the edges of a spanning tree, see `spanning_tree.pxd`.

Weights are float32; the merge criterion is compared in float64. The result does not depend on the machine.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from data.supervoxels.edge_weights cimport as_bits, as_weight, radix_sort, weight_bits
from data.supervoxels.equal_voxels cimport merge_equal_neighbours
from data.supervoxels.lightest_edges cimport find_lightest_steps
from data.supervoxels.segment_forest cimport Forest, find, merge, threshold
from data.supervoxels.small_segments cimport merge_small_segments
from data.supervoxels.spanning_tree cimport Tree
from data.supervoxels.voxel_grid cimport (
    DIRECTION_SHIFT, N_DIRECTIONS, VOXEL_MASK, Grid, end_x, first_x, has_row, make_grid,
)

import numpy as np

KERNEL_VERSION = 1  # must equal `data.supervoxels.ALGORITHM_VERSION`; reveals an outdated build
MAX_VOXELS = 1 << 28

cdef enum:
    BIN_SHIFT = 15  # the sign bit is 0, so the other 31 bits make 2^16 bins of 2^15 values
    N_BINS = 1 << 16
    INFINITY_BITS = 0x7F800000

cdef struct EdgeSweep:
    const Grid* grid
    int32_t* label  # equal at both ends of an inactive edge
    uint32_t low  # selected weights: bits in low .. low + span
    uint32_t span
    int shift
    uint32_t* histogram
    uint64_t* entries  # (bits - low) << 32 | direction << 28 | voxel
    Py_ssize_t n_entries
    Forest* forest

ctypedef void (*RowVisitor)(EdgeSweep*, int, Py_ssize_t, Py_ssize_t) noexcept nogil


def segment(
    const float[:, :, ::1] volume, const int[:, ::1] directions, const float[::1] factors, *,
    double k, int64_t min_size, Py_ssize_t capacity,
):
    """Segment a volume; see `segmentation.segment_supervoxels`, which checks the arguments.

    Args:
        volume: `(Z, H, W)`, finite, at least one and at most MAX_VOXELS voxels.
        directions: `(13, 3)` steps `(z, y, x)` in order of precedence, each forward in raster order.
        factors: `(13,)` weight factors of the directions, finite and not negative.
        k: constant of the merge criterion.
        min_size: in voxels.
        capacity: edges sorted at once, at least 1, of 16 bytes each. Does not affect the result.

    Returns:
        Segment ids `(Z, H, W)`, int32, 0, 1, 2, ... by first appearance in raster order.
    """
    cdef Grid grid = make_grid(volume, directions, factors)
    labels = np.empty((volume.shape[0], volume.shape[1], volume.shape[2]), dtype=np.int32)
    cdef int32_t[:, :, ::1] label = labels
    cdef int32_t[::1] parent = np.full(grid.n_voxels, -1, dtype=np.int32)
    cdef uint8_t[::1] lightest_step = np.empty(grid.n_voxels, dtype=np.uint8)
    cdef int32_t[:, ::1] rows = np.empty((2, grid.shape[2]), dtype=np.int32)
    # np.zeros allocates pages when written, and few segments have a maximum weight above 0.
    cdef float[::1] max_weight = np.zeros(grid.n_voxels, dtype=np.float32)
    cdef Forest forest = Forest(parent=&parent[0], max_weight=&max_weight[0], k=k)
    cdef EdgeSweep sweep
    cdef uint32_t lightest
    cdef int64_t n_segments
    sweep.grid, sweep.forest, sweep.label = &grid, &forest, &label[0, 0, 0]
    with nogil:
        if k / grid.n_voxels > 0.0:
            merge_equal_neighbours(&grid, &forest, &rows[0, 0])
        label_voxels(&sweep)
        lightest = find_lightest_steps(&grid, sweep.label, &lightest_step[0], &rows[0, 0], &rows[1, 0])
    if lightest <= max_merge_bits(k):
        merge_by_weight(&sweep, capacity, max_merge_bits(k))
    n_segments = number_segments(&sweep)
    apply_min_size(&sweep, n_segments, min_size, &lightest_step[0], rows)
    return labels


cdef int apply_min_size(
    EdgeSweep* sweep, Py_ssize_t n_segments, int64_t min_size, uint8_t* lightest_step, int32_t[:, ::1] rows
) except -1:
    """Run the minimum-size pass; ids are numbered by first appearance before and after."""
    cdef int32_t[:, ::1] ids = np.empty((2, n_segments), dtype=np.int32)
    cdef uint64_t[:, ::1] ranks = np.empty((2, n_segments), dtype=np.uint64)
    cdef Tree tree = Tree(
        edges=&ranks[0, 0], n_edges=0, component=sweep.forest.parent, n_components=<int32_t>n_segments,
        lightest_step=lightest_step, size=&ids[0, 0], parent=&ids[1, 0], lightest=&ranks[1, 0],
    )  # the forest is no longer needed, so its memory is reused
    return merge_small_segments(sweep.grid, &tree, sweep.label, min_size, &rows[0, 0], &rows[1, 0])


cdef uint32_t max_merge_bits(double k) noexcept:
    """Return the bits of an upper bound of the weights that can merge segments.

    By induction, a segment of n voxels has merged no weight above 2 k (1 - 1/n): its last weight is below the
    threshold of the smaller of its two parts, which has at most n/2 voxels: 2 k (1 - 2/n) + k / (n/2).
    """
    cdef double bound = 2.000001 * k  # exceeds all rounding errors
    return min(<uint32_t>INFINITY_BITS, as_bits(<float>bound) + 1)


cdef int merge_by_weight(EdgeSweep* sweep, Py_ssize_t capacity, uint32_t max_bits) except -1:
    """Process all active edges by increasing weight, in rounds of at most `capacity`."""
    cdef uint32_t[::1] histogram = np.empty(N_BINS, dtype=np.uint32)
    cdef uint64_t[:, ::1] buffers = np.empty((2, capacity), dtype=np.uint64)
    cdef uint64_t low = 0  # 64 bits, as it ends above the maximum
    cdef int64_t n_selected
    sweep.histogram = &histogram[0]
    sweep.entries = &buffers[0, 0]
    while low <= max_bits:
        PyErr_CheckSignals()
        with nogil:
            label_voxels(sweep)
            sweep.low, sweep.span, sweep.shift = low, max_bits - low, BIN_SHIFT
            # Checked twice: before edges are counted, and when the lightest active one is known.
            if is_finished(sweep) or not select_weights(sweep, capacity, &n_selected) or is_finished(sweep):
                break
            if n_selected > capacity:
                visit_edges(sweep, merge_row)  # a single weight: the edges are visited in sorted order
            else:
                sweep.n_entries = 0
                visit_edges(sweep, collect_row)
                merge_entries(sweep, radix_sort(
                    sweep.entries, &buffers[1, 0], sweep.n_entries, 32, <uint64_t>sweep.span << 32
                ))
            low = <uint64_t>sweep.low + sweep.span + 1
    return 0


cdef bint is_finished(EdgeSweep* sweep) noexcept nogil:
    """Test whether no edge of weight `low` or above can merge any segment."""
    cdef Forest* forest = sweep.forest
    cdef Py_ssize_t voxel
    cdef double lightest = as_weight(sweep.low)
    for voxel in range(sweep.grid.n_voxels):
        if forest.parent[voxel] < 0 and lightest < threshold(forest, voxel):
            return False
    return True


cdef bint select_weights(EdgeSweep* sweep, int64_t capacity, int64_t* n_selected) noexcept nogil:
    """Select the lightest weights whose active edges fit the buffer; return whether there are any.

    A single weight with more edges than fit is selected alone.
    """
    if not narrow_to_bins(sweep, capacity, n_selected):
        return False
    if n_selected[0] > capacity:  # a single bin: select weights within it
        sweep.shift = 0
        narrow_to_bins(sweep, capacity, n_selected)
    return True


cdef bint narrow_to_bins(EdgeSweep* sweep, int64_t capacity, int64_t* n_selected) noexcept nogil:
    """Select the lightest bins of 2^shift weights with up to `capacity` edges, at least one non-empty bin."""
    cdef int64_t first = 0
    cdef int64_t end
    memset(sweep.histogram, 0, N_BINS * sizeof(uint32_t))
    visit_edges(sweep, count_row)
    while first < N_BINS and sweep.histogram[first] == 0:
        first += 1
    if first == N_BINS:
        return False
    end = first
    n_selected[0] = 0
    while end < N_BINS and (end == first or n_selected[0] + sweep.histogram[end] <= capacity):
        n_selected[0] += sweep.histogram[end]
        end += 1
    sweep.low += <uint32_t>(first << sweep.shift)
    sweep.span = <uint32_t>min(sweep.span - (first << sweep.shift), ((end - first) << sweep.shift) - 1)
    return True


cdef void visit_edges(EdgeSweep* sweep, RowVisitor visit) noexcept nogil:
    """Call `visit` for each row of edges, in order of direction, then raster order."""
    cdef const Grid* grid = sweep.grid
    cdef Py_ssize_t z, y, begin
    cdef int step
    for step in range(1, 2 * N_DIRECTIONS, 2):
        begin = first_x(grid, step)
        for z in range(grid.shape[0]):
            for y in range(grid.shape[1]):
                if has_row(grid, step, z, y):
                    visit(
                        sweep, step, (z * grid.shape[1] + y) * grid.shape[2] + begin,
                        end_x(grid, step) - begin,
                    )


cdef void count_row(EdgeSweep* sweep, int step, Py_ssize_t first, Py_ssize_t length) noexcept nogil:
    cdef const float* intensity = sweep.grid.intensity
    cdef const int32_t* label = sweep.label
    cdef uint32_t* histogram = sweep.histogram
    cdef Py_ssize_t stride = sweep.grid.stride[step]
    cdef float factor = sweep.grid.factor[step]
    cdef uint32_t low = sweep.low
    cdef uint32_t span = sweep.span
    cdef int shift = sweep.shift
    cdef uint32_t above
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        above = weight_bits(intensity[voxel], intensity[voxel + stride], factor) - low
        if (label[voxel] != label[voxel + stride]) & (above <= span):
            histogram[above >> shift] += 1


cdef void collect_row(EdgeSweep* sweep, int step, Py_ssize_t first, Py_ssize_t length) noexcept nogil:
    cdef const float* intensity = sweep.grid.intensity
    cdef const int32_t* label = sweep.label
    cdef uint64_t* entries = sweep.entries
    cdef Py_ssize_t stride = sweep.grid.stride[step]
    cdef float factor = sweep.grid.factor[step]
    cdef uint32_t low = sweep.low
    cdef uint32_t span = sweep.span
    cdef uint64_t code = <uint64_t>(step >> 1) << DIRECTION_SHIFT
    cdef Py_ssize_t n_entries = sweep.n_entries
    cdef uint32_t above
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        above = weight_bits(intensity[voxel], intensity[voxel + stride], factor) - low
        if (label[voxel] != label[voxel + stride]) & (above <= span):
            entries[n_entries] = (<uint64_t>above << 32) | code | <uint64_t>voxel
            n_entries += 1
    sweep.n_entries = n_entries


cdef void merge_row(EdgeSweep* sweep, int step, Py_ssize_t first, Py_ssize_t length) noexcept nogil:
    cdef const float* intensity = sweep.grid.intensity
    cdef Py_ssize_t stride = sweep.grid.stride[step]
    cdef uint32_t bits
    cdef Py_ssize_t voxel
    for voxel in range(first, first + length):
        bits = weight_bits(intensity[voxel], intensity[voxel + stride], sweep.grid.factor[step])
        if (sweep.label[voxel] != sweep.label[voxel + stride]) & (bits == sweep.low):
            merge(sweep.forest, <int32_t>voxel, <int32_t>(voxel + stride), as_weight(bits))


cdef void merge_entries(EdgeSweep* sweep, const uint64_t* entries) noexcept nogil:
    cdef Py_ssize_t i, stride
    cdef int32_t voxel
    for i in range(sweep.n_entries):
        voxel = entries[i] & VOXEL_MASK
        stride = sweep.grid.stride[2 * ((entries[i] >> DIRECTION_SHIFT) & 15) + 1]
        merge(
            sweep.forest, voxel, <int32_t>(voxel + stride),
            as_weight(sweep.low + <uint32_t>(entries[i] >> 32)),
        )


cdef void label_voxels(EdgeSweep* sweep) noexcept nogil:
    """Label each voxel with its root."""
    cdef int32_t* parent = sweep.forest.parent
    cdef Py_ssize_t voxel
    cdef int32_t root
    for voxel in range(sweep.grid.n_voxels):
        root = find(parent, <int32_t>voxel)
        if root != voxel:
            parent[voxel] = root
        sweep.label[voxel] = root


cdef int64_t number_segments(EdgeSweep* sweep) noexcept nogil:
    """Replace labels by ids 0, 1, 2, ... by first appearance in raster order; return their number."""
    cdef Py_ssize_t voxel
    cdef int32_t root
    cdef int32_t n_ids = 0
    for voxel in range(sweep.grid.n_voxels):
        sweep.label[voxel] = -1
    for voxel in range(sweep.grid.n_voxels):
        root = find(sweep.forest.parent, <int32_t>voxel)
        if sweep.label[root] < 0:
            sweep.label[root] = n_ids
            n_ids += 1
        sweep.label[voxel] = sweep.label[root]
    return n_ids
