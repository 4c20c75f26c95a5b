"""The second scan: join every segment that is too small with the neighbour across its lightest edge."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy

from data.supervoxels.edge_weights cimport sort_entries
from data.supervoxels.spanning_tree cimport Tree, grow, join_parts, lowest, number_anew, rename
from data.supervoxels.voxel_grid cimport NO_EDGE, Grid, far_end, near_end


cdef inline int join_small(
    const Grid* grid, Tree* tree, int32_t* label, int64_t min_size, int32_t* bits, int32_t* steps
) except -1:
    """Join the segments that `label` tells, 0 to n - 1, until none is below the least size, or one is left.

    Args:
        grid: the voxels.
        tree: no edges yet, n parts, each voxel's `step_of`, and memory for its other arrays.
        label: `(n_voxels,)`, renewed in the same manner.
        min_size: in voxels.
        bits, steps: each holds a row.
    """
    cdef int32_t n_segments = tree.n_parts
    start_parts(grid, tree, label)
    memcpy(tree.part, label, grid.n_voxels * sizeof(int32_t))
    while tree.n_parts > 1:
        PyErr_CheckSignals()
        with nogil:
            # Large parts are found by the others: their many voxels need not be looked at.
            grow(grid, tree, max(min_size, 2 * (grid.n_voxels // tree.n_parts)), bits, steps)
    tree.n_parts = n_segments
    start_parts(grid, tree, label)
    with nogil:
        follow(grid, tree, sort_entries(tree.edges, tree.lightest, tree.n_edges, 0, NO_EDGE), label, min_size)
        number_anew(tree)
        rename(grid, label, tree.joined)
    return 0


cdef inline void start_parts(const Grid* grid, Tree* tree, const int32_t* label) noexcept nogil:
    cdef int32_t segment
    cdef Py_ssize_t voxel
    for segment in range(tree.n_parts):
        tree.joined[segment] = segment
        tree.size[segment] = 0
    for voxel in range(grid.n_voxels):
        tree.size[label[voxel]] += 1


cdef inline void follow(
    const Grid* grid, Tree* tree, const uint64_t* edges, const int32_t* label, int64_t min_size
) noexcept nogil:
    """Go through sorted edges of the tree and join the segments at both ends where one is small."""
    cdef Py_ssize_t i
    cdef int32_t a, b
    for i in range(tree.n_edges):
        a = lowest(tree.joined, label[near_end(edges[i])])
        b = lowest(tree.joined, label[far_end(grid, edges[i])])
        if tree.size[a] < min_size or tree.size[b] < min_size:
            join_parts(tree, a, b)
