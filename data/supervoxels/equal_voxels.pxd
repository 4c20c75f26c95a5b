"""The start of the first scan: neighbours of equal intensity are joined, in whatever order."""

from libc.stdint cimport int32_t

from data.supervoxels.segment_forest cimport Forest, join
from data.supervoxels.voxel_grid cimport N_DIRECTIONS, Grid, end_x, first_x, has_row

cdef enum:
    # The directions whose voxel behind is a neighbour of the others' voxels behind: of all, of most.
    ALONG_Z = 4
    ALONG_Y = 1


cdef inline void join_equal(const Grid* grid, Forest* forest, int32_t* equal) noexcept nogil:
    """Join all neighbours of equal intensity; `equal` holds a row.

    Their edges weigh 0, less than any segment's tolerance, and raise no segment's largest weight.
    """
    cdef Py_ssize_t z, y, x, row
    for z in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            row = (z * grid.shape[1] + y) * grid.shape[2]
            find_equal(grid, z, y, equal)
            for x in range(grid.shape[2]):
                if equal[x]:
                    join_behind(grid, forest, <int32_t>(row + x), equal[x])


cdef inline void find_equal(const Grid* grid, Py_ssize_t z, Py_ssize_t y, int32_t* equal) noexcept nogil:
    """Set bit d of a row's voxel where the voxel behind it along direction d is equal."""
    cdef const float* intensity = grid.intensity + (z * grid.shape[1] + y) * grid.shape[2]
    cdef int direction
    cdef Py_ssize_t x
    for x in range(grid.shape[2]):
        equal[x] = 0
    for direction in range(N_DIRECTIONS):
        if has_row(grid, 2 * direction, z, y):
            x = first_x(grid, 2 * direction)
            mark_equal(
                intensity + x, intensity + x + grid.stride[2 * direction], 1 << direction,
                end_x(grid, 2 * direction) - x, equal + x,
            )


cdef inline void mark_equal(
    const float* intensity, const float* behind, int32_t mark, Py_ssize_t length, int32_t* equal
) noexcept nogil:
    cdef Py_ssize_t x
    for x in range(length):
        equal[x] |= mark & -<int32_t>(intensity[x] == behind[x])


cdef inline void join_behind(const Grid* grid, Forest* forest, int32_t voxel, int32_t equal) noexcept nogil:
    """Join a voxel with its equals behind it, but for those joined with one another already."""
    cdef int direction
    if equal & (1 << ALONG_Z):
        join(forest, voxel, voxel + <int32_t>grid.stride[2 * ALONG_Z], 0.0)
        return
    for direction in range(N_DIRECTIONS):
        if equal & (1 << direction):
            join(forest, voxel, voxel + <int32_t>grid.stride[2 * direction], 0.0)
