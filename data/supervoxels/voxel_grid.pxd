"""Voxel grid of a volume, with the steps to the 26 neighbours of a voxel."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from data.supervoxels.edge_weights cimport weight_bits

cdef enum:
    N_DIRECTIONS = 13
    N_STEPS = 26
    DIRECTION_SHIFT = 28  # edge in 32 bits: 4 for its direction, 28 for its start voxel
    VOXEL_MASK = (1 << 28) - 1
    NO_EDGE = 0xFFFFFFFFFFFFFFFF  # above every rank

cdef struct Grid:
    const float* intensity
    Py_ssize_t[3] shape
    Py_ssize_t n_voxels
    # Step 2 d + 1 is forward along direction d, step 2 d backward. Steps order edges of equal weight at a
    # voxel: by direction, then by start voxel.
    Py_ssize_t[N_STEPS][3] offset
    Py_ssize_t[N_STEPS] stride
    float[N_STEPS] factor


cdef inline Grid make_grid(
    const float[:, :, ::1] volume, const int[:, ::1] directions, const float[::1] factors
) noexcept:
    cdef Grid grid
    cdef int step, axis, sign
    grid.intensity = &volume[0, 0, 0]
    grid.n_voxels = volume.shape[0] * volume.shape[1] * volume.shape[2]
    for axis in range(3):
        grid.shape[axis] = volume.shape[axis]
    for step in range(N_STEPS):
        sign = 1 if step & 1 else -1
        for axis in range(3):
            grid.offset[step][axis] = sign * directions[step >> 1, axis]
        grid.stride[step] = (
            grid.offset[step][0] * grid.shape[1] + grid.offset[step][1]
        ) * grid.shape[2] + grid.offset[step][2]
        grid.factor[step] = factors[step >> 1]
    return grid


cdef inline bint has_row(const Grid* grid, int step, Py_ssize_t z, Py_ssize_t y) noexcept nogil:
    """Test whether the step from row (z, y) stays inside the volume along z and y."""
    cdef Py_ssize_t to_z = z + grid.offset[step][0]
    cdef Py_ssize_t to_y = y + grid.offset[step][1]
    return 0 <= to_z < grid.shape[0] and 0 <= to_y < grid.shape[1]


cdef inline Py_ssize_t first_x(const Grid* grid, int step) noexcept nogil:
    return 1 if grid.offset[step][2] < 0 else 0


cdef inline Py_ssize_t end_x(const Grid* grid, int step) noexcept nogil:
    return grid.shape[2] - (1 if grid.offset[step][2] > 0 else 0)


cdef inline uint32_t step_bits(const Grid* grid, Py_ssize_t voxel, int step) noexcept nogil:
    return weight_bits(grid.intensity[voxel], grid.intensity[voxel + grid.stride[step]], grid.factor[step])


cdef inline uint64_t edge_rank(const Grid* grid, Py_ssize_t voxel, int step) noexcept nogil:
    """Return the sort key of an edge, `weight bits << 32 | edge`; equal from both ends."""
    cdef Py_ssize_t start = voxel if step & 1 else voxel + grid.stride[step]
    cdef uint64_t edge = (<uint64_t>(step >> 1) << DIRECTION_SHIFT) | <uint64_t>start
    return (<uint64_t>step_bits(grid, voxel, step) << 32) | edge


cdef inline int32_t edge_start(uint64_t rank) noexcept nogil:
    return rank & VOXEL_MASK


cdef inline int32_t edge_end(const Grid* grid, uint64_t rank) noexcept nogil:
    cdef int direction = (rank >> DIRECTION_SHIFT) & 15
    return edge_start(rank) + <int32_t>grid.stride[2 * direction + 1]
