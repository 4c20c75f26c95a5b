"""Start of the merging pass: merge neighbours of equal intensity, whose order does not matter."""

from libc.stdint cimport int32_t

from data.supervoxels.segment_forest cimport Forest, merge
from data.supervoxels.voxel_grid cimport N_DIRECTIONS, Grid, end_x, first_x, has_row

cdef enum:
    ALONG_Z = 4  # direction whose backward neighbour is a neighbour of all other backward neighbours


cdef inline void merge_equal_neighbours(const Grid* grid, Forest* forest, int32_t* equal) noexcept nogil:
    """Merge all neighbours of equal intensity; `equal` is a buffer for one row.

    Their edges have weight 0, below every segment's threshold, and leave the maximum weights unchanged.
    """
    cdef Py_ssize_t z, y, x, row
    for z in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            row = (z * grid.shape[1] + y) * grid.shape[2]
            mark_row(grid, z, y, equal)
            for x in range(grid.shape[2]):
                if equal[x]:
                    merge_backward(grid, forest, <int32_t>(row + x), equal[x])


cdef inline void mark_row(const Grid* grid, Py_ssize_t z, Py_ssize_t y, int32_t* equal) noexcept nogil:
    """Set bit d for each voxel of a row that equals its backward neighbour along direction d."""
    cdef const float* intensity = grid.intensity + (z * grid.shape[1] + y) * grid.shape[2]
    cdef int direction
    cdef Py_ssize_t x
    for x in range(grid.shape[2]):
        equal[x] = 0
    for direction in range(N_DIRECTIONS):
        if has_row(grid, 2 * direction, z, y):
            x = first_x(grid, 2 * direction)
            mark_direction(
                intensity + x, intensity + x + grid.stride[2 * direction], 1 << direction,
                end_x(grid, 2 * direction) - x, equal + x,
            )


cdef inline void mark_direction(
    const float* intensity, const float* previous, int32_t mark, Py_ssize_t length, int32_t* equal
) noexcept nogil:
    cdef Py_ssize_t x
    for x in range(length):
        equal[x] |= mark & -<int32_t>(intensity[x] == previous[x])


cdef inline void merge_backward(
    const Grid* grid, Forest* forest, int32_t voxel, int32_t equal
) noexcept nogil:
    """Merge a voxel with its equal backward neighbours, except those known to be merged already."""
    cdef int direction
    if equal & (1 << ALONG_Z):
        merge(forest, voxel, voxel + <int32_t>grid.stride[2 * ALONG_Z], 0.0)
        return
    for direction in range(N_DIRECTIONS):
        if equal & (1 << direction):
            merge(forest, voxel, voxel + <int32_t>grid.stride[2 * direction], 0.0)
