"""The minimum spanning tree of the segments: all edges that the second scan needs to look at.

The second scan goes through the edges in increasing weight and joins the segments at both ends where one is
small. Take an edge outside the tree: it is heavier than all edges of the tree's path between its ends. If
the segment at one of its ends is small when the scan comes to it, then all of that path lies in that segment:
an edge of the path that left it would have come before, found it (or a part of it) small, and joined. So an
edge outside the tree joins nothing, and the tree's edges alone, one fewer than segments, give the result.

The tree grows by rounds (Boruvka, O jistem problemu minimalnim, 1926): parts of it are joined with the part
across the lightest edge out of them, until one is left. Ties have an order (`edge_rank`), so no ring of such
joins closes.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from data.supervoxels.lightest_edges cimport NO_STEP, find_at_voxel, find_in_row
from data.supervoxels.voxel_grid cimport NO_EDGE, Grid, edge_rank, far_end, near_end

cdef enum:
    # A voxel alone takes as long as about so many of a whole row.
    VOXELS_FOR_ONE = 5

cdef struct Tree:
    uint64_t* edges  # ranks, in no order
    Py_ssize_t n_edges
    int32_t* part  # of each voxel, 0 to n_parts - 1
    int32_t n_parts
    uint8_t* step_of  # of each voxel: the lightest edge out of its part, maybe into it by now
    int32_t* size  # of each part, in voxels
    int32_t* joined  # of each part: one that it is joined with, at most its own id
    uint64_t* lightest  # of each part: rank of the lightest edge out of it


cdef inline void grow(
    const Grid* grid, Tree* tree, int64_t size_limit, int32_t* bits, int32_t* steps
) noexcept nogil:
    """Join each part below the limit with the one across its lightest edge; `bits` and `steps` hold a row."""
    cdef int32_t part
    cdef Py_ssize_t z, y
    for part in range(tree.n_parts):
        tree.lightest[part] = NO_EDGE
        tree.joined[part] = part
    for z in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            lower_in_row(grid, tree, size_limit, z, y, bits, steps)
    for part in range(tree.n_parts):
        if tree.lightest[part] != NO_EDGE:
            add_edge(grid, tree, tree.lightest[part])
    number_anew(tree)
    rename(grid, tree.part, tree.joined)


cdef inline void lower_in_row(
    const Grid* grid, Tree* tree, int64_t size_limit, Py_ssize_t z, Py_ssize_t y,
    int32_t* bits, int32_t* steps,
) noexcept nogil:
    """Lower the lightest ranks of parts below the limit to those of a row's voxels."""
    cdef Py_ssize_t width = grid.shape[2]
    cdef Py_ssize_t row = (z * grid.shape[1] + y) * width
    cdef const int32_t* part = tree.part + row
    cdef uint8_t* step_of = tree.step_of + row
    cdef Py_ssize_t n_stale = 0
    cdef Py_ssize_t x, first, end
    for x in range(width):
        if step_of[x] != NO_STEP and tree.size[part[x]] < size_limit:
            if part[x + grid.stride[step_of[x]]] != part[x]:
                lower(grid, tree, row + x)
            else:
                steps[n_stale] = <int32_t>x
                n_stale += 1
    if n_stale == 0:
        return
    first, end = steps[0], steps[n_stale - 1] + 1
    if n_stale * VOXELS_FOR_ONE < end - first:
        for x in range(n_stale):
            step_of[steps[x]] = <uint8_t>find_at_voxel(grid, tree.part, z, y, steps[x])
            lower(grid, tree, row + steps[x])
    else:
        find_in_row(grid, tree.part, z, y, first, end, bits, steps)
        for x in range(first, end):
            step_of[x] = <uint8_t>steps[x]
            if tree.size[part[x]] < size_limit:
                lower(grid, tree, row + x)


cdef inline void lower(const Grid* grid, Tree* tree, Py_ssize_t voxel) noexcept nogil:
    """Lower the lightest rank of a voxel's part to that of its own edge."""
    cdef uint64_t rank
    if tree.step_of[voxel] != NO_STEP:
        rank = edge_rank(grid, voxel, tree.step_of[voxel])
        if rank < tree.lightest[tree.part[voxel]]:
            tree.lightest[tree.part[voxel]] = rank


cdef inline void add_edge(const Grid* grid, Tree* tree, uint64_t rank) noexcept nogil:
    """Add an edge to the tree unless the part at its other end has done so."""
    cdef int32_t a = lowest(tree.joined, tree.part[near_end(rank)])
    cdef int32_t b = lowest(tree.joined, tree.part[far_end(grid, rank)])
    if a != b:
        join_parts(tree, a, b)
        tree.edges[tree.n_edges] = rank
        tree.n_edges += 1


cdef inline void join_parts(Tree* tree, int32_t a, int32_t b) noexcept nogil:
    """Join two different parts, each named by the lowest id of all that is joined with it."""
    tree.joined[max(a, b)] = min(a, b)
    tree.size[min(a, b)] += tree.size[max(a, b)]


cdef inline int32_t lowest(int32_t* joined, int32_t part) noexcept nogil:
    """Return the lowest id of all that is joined with a part, halving the path to it."""
    while joined[part] != part:
        joined[part] = joined[joined[part]]
        part = joined[part]
    return part


cdef inline void number_anew(Tree* tree) noexcept nogil:
    """Number the joined parts by the lowest of their ids; `joined` then tells the new ids.

    In place: what a part is joined with is lower, so it has its new number already.
    """
    cdef int32_t n_joined = 0
    cdef int32_t part, new
    for part in range(tree.n_parts):
        if tree.joined[part] == part:
            new = n_joined
            n_joined += 1
            tree.size[new] = tree.size[part]
        else:
            new = tree.joined[tree.joined[part]]
        tree.joined[part] = new
    tree.n_parts = n_joined


cdef inline void rename(const Grid* grid, int32_t* id_of, const int32_t* new_id) noexcept nogil:
    cdef Py_ssize_t voxel
    for voxel in range(grid.n_voxels):
        id_of[voxel] = new_id[id_of[voxel]]
