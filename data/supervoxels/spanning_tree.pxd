"""Minimum spanning tree of the segments: its edges suffice for the minimum-size pass.

That pass visits edges by increasing weight and merges the segments at both ends if one is small. An edge
outside the tree is heavier than all edges of the tree's path between its ends. If the segment at one end is
small when the edge is visited, the whole path lies in that segment: an edge of the path that left it would
have been visited before, when the segment (or a part of it) was small as well, and would have merged. So
edges outside the tree merge nothing.

The tree is built in rounds (Boruvka, O jistem problemu minimalnim, 1926): each component is merged with the
one across its lightest edge, until one remains. `edge_rank` breaks ties, so that no cycle can form.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from data.supervoxels.lightest_edges cimport NO_STEP, find_lightest_at_voxel, find_lightest_in_row
from data.supervoxels.voxel_grid cimport NO_EDGE, Grid, edge_end, edge_rank, edge_start

cdef enum:
    SINGLE_VOXEL_COST = 5  # time to search one voxel, relative to the time per voxel of a whole row

cdef struct Tree:
    uint64_t* edges  # ranks, unsorted
    Py_ssize_t n_edges
    int32_t* component  # per voxel, 0 to n_components - 1
    int32_t n_components
    uint8_t* lightest_step  # per voxel: step along its lightest edge; outdated once inside its component
    int32_t* size  # per component, in voxels
    int32_t* parent  # per component: union-find parent, at most its own id
    uint64_t* lightest  # per component: rank of its lightest edge to another one


cdef inline void boruvka_round(
    const Grid* grid, Tree* tree, int64_t size_limit, int32_t* bits, int32_t* steps
) noexcept nogil:
    """Merge each component below the size limit with the one across its lightest edge.

    `bits` and `steps` are buffers for one row.
    """
    cdef int32_t component
    cdef Py_ssize_t z, y
    for component in range(tree.n_components):
        tree.lightest[component] = NO_EDGE
        tree.parent[component] = component
    for z in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            update_lightest_in_row(grid, tree, size_limit, z, y, bits, steps)
    for component in range(tree.n_components):
        if tree.lightest[component] != NO_EDGE:
            add_edge(grid, tree, tree.lightest[component])
    renumber_components(tree)
    relabel(grid, tree.component, tree.parent)


cdef inline void update_lightest_in_row(
    const Grid* grid, Tree* tree, int64_t size_limit, Py_ssize_t z, Py_ssize_t y,
    int32_t* bits, int32_t* steps,
) noexcept nogil:
    """Update `lightest` of the components below the size limit from the voxels of a row."""
    cdef Py_ssize_t width = grid.shape[2]
    cdef Py_ssize_t row = (z * grid.shape[1] + y) * width
    cdef const int32_t* component = tree.component + row
    cdef uint8_t* lightest_step = tree.lightest_step + row
    cdef Py_ssize_t n_stale = 0
    cdef Py_ssize_t x, first, end
    for x in range(width):
        if lightest_step[x] != NO_STEP and tree.size[component[x]] < size_limit:
            if component[x + grid.stride[lightest_step[x]]] != component[x]:
                update_lightest(grid, tree, row + x)
            else:
                steps[n_stale] = <int32_t>x
                n_stale += 1
    if n_stale == 0:
        return
    first, end = steps[0], steps[n_stale - 1] + 1
    if n_stale * SINGLE_VOXEL_COST < end - first:
        for x in range(n_stale):
            lightest_step[steps[x]] = <uint8_t>find_lightest_at_voxel(grid, tree.component, z, y, steps[x])
            update_lightest(grid, tree, row + steps[x])
    else:
        find_lightest_in_row(grid, tree.component, z, y, first, end, bits, steps)
        for x in range(first, end):
            lightest_step[x] = <uint8_t>steps[x]
            if tree.size[component[x]] < size_limit:
                update_lightest(grid, tree, row + x)


cdef inline void update_lightest(const Grid* grid, Tree* tree, Py_ssize_t voxel) noexcept nogil:
    """Update `lightest` of a voxel's component from the voxel's lightest edge."""
    cdef uint64_t rank
    if tree.lightest_step[voxel] != NO_STEP:
        rank = edge_rank(grid, voxel, tree.lightest_step[voxel])
        if rank < tree.lightest[tree.component[voxel]]:
            tree.lightest[tree.component[voxel]] = rank


cdef inline void add_edge(const Grid* grid, Tree* tree, uint64_t rank) noexcept nogil:
    """Add an edge to the tree unless the component at its other end has added it."""
    cdef int32_t a = find_component(tree.parent, tree.component[edge_start(rank)])
    cdef int32_t b = find_component(tree.parent, tree.component[edge_end(grid, rank)])
    if a != b:
        merge_components(tree, a, b)
        tree.edges[tree.n_edges] = rank
        tree.n_edges += 1


cdef inline void merge_components(Tree* tree, int32_t a, int32_t b) noexcept nogil:
    """Merge two different components, given by their roots."""
    tree.parent[max(a, b)] = min(a, b)
    tree.size[min(a, b)] += tree.size[max(a, b)]


cdef inline int32_t find_component(int32_t* parent, int32_t component) noexcept nogil:
    """Return the root of a component, its lowest merged id, with path halving."""
    while parent[component] != component:
        parent[component] = parent[parent[component]]
        component = parent[component]
    return component


cdef inline void renumber_components(Tree* tree) noexcept nogil:
    """Renumber merged components consecutively, in order of their roots; `parent` then holds the new ids.

    In place: a parent's id is lower, so it has been renumbered before.
    """
    cdef int32_t n_roots = 0
    cdef int32_t component, new
    for component in range(tree.n_components):
        if tree.parent[component] == component:
            new = n_roots
            n_roots += 1
            tree.size[new] = tree.size[component]
        else:
            new = tree.parent[tree.parent[component]]
        tree.parent[component] = new
    tree.n_components = n_roots


cdef inline void relabel(const Grid* grid, int32_t* id_of, const int32_t* new_id) noexcept nogil:
    cdef Py_ssize_t voxel
    for voxel in range(grid.n_voxels):
        id_of[voxel] = new_id[id_of[voxel]]
