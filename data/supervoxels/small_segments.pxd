"""Minimum-size pass: merge each small segment with the neighbour across its lightest edge."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy

from data.supervoxels.edge_weights cimport radix_sort
from data.supervoxels.spanning_tree cimport (
    Tree, boruvka_round, find_component, merge_components, relabel, renumber_components,
)
from data.supervoxels.voxel_grid cimport NO_EDGE, Grid, edge_end, edge_start


cdef inline int merge_small_segments(
    const Grid* grid, Tree* tree, int32_t* label, int64_t min_size, int32_t* bits, int32_t* steps
) except -1:
    """Merge segments until none is smaller than `min_size`, or only one remains.

    Args:
        grid: the voxels.
        tree: without edges, with n components, all `lightest_step`, and memory for the other arrays.
        label: `(n_voxels,)`, segment ids 0 to n - 1; updated in place.
        min_size: in voxels.
        bits, steps: buffers for one row.
    """
    cdef int32_t n_segments = tree.n_components
    cdef uint64_t* edges
    init_components(grid, tree, label)
    memcpy(tree.component, label, grid.n_voxels * sizeof(int32_t))
    while tree.n_components > 1:
        PyErr_CheckSignals()
        with nogil:
            # Skip large components: the others find their edges to them, without reading their many voxels.
            boruvka_round(grid, tree, max(min_size, 2 * (grid.n_voxels // tree.n_components)), bits, steps)
    tree.n_components = n_segments
    init_components(grid, tree, label)
    with nogil:
        edges = radix_sort(tree.edges, tree.lightest, tree.n_edges, 0, NO_EDGE)
        merge_along_edges(grid, tree, edges, label, min_size)
        renumber_components(tree)
        relabel(grid, label, tree.parent)
    return 0


cdef inline void init_components(const Grid* grid, Tree* tree, const int32_t* label) noexcept nogil:
    cdef int32_t segment
    cdef Py_ssize_t voxel
    for segment in range(tree.n_components):
        tree.parent[segment] = segment
        tree.size[segment] = 0
    for voxel in range(grid.n_voxels):
        tree.size[label[voxel]] += 1


cdef inline void merge_along_edges(
    const Grid* grid, Tree* tree, const uint64_t* edges, const int32_t* label, int64_t min_size
) noexcept nogil:
    """Merge the segments at both ends of each edge, in sorted order, if one of them is small."""
    cdef Py_ssize_t i
    cdef int32_t a, b
    for i in range(tree.n_edges):
        a = find_component(tree.parent, label[edge_start(edges[i])])
        b = find_component(tree.parent, label[edge_end(grid, edges[i])])
        if tree.size[a] < min_size or tree.size[b] < min_size:
            merge_components(tree, a, b)
