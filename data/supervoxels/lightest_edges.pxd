"""Find the lightest edge that leads from each voxel to another segment."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from data.supervoxels.edge_weights cimport weight_bits
from data.supervoxels.voxel_grid cimport N_STEPS, Grid, end_x, first_x, has_row, step_bits

cdef enum:
    NO_STEP = N_STEPS  # for a voxel whose neighbours are all in its segment
    NO_WEIGHT = 0x7FFFFFFF  # above the bits of infinity


cdef inline void find_lightest_in_row(
    const Grid* grid, const int32_t* label, Py_ssize_t z, Py_ssize_t y, Py_ssize_t first, Py_ssize_t end,
    int32_t* bits, int32_t* steps,
) noexcept nogil:
    """Find the steps along the lightest edges, and their bits, of voxels `first` to `end - 1` of row (z, y).

    The outer loop is over steps, so that the compiler can vectorise the one over voxels.
    """
    cdef Py_ssize_t row = (z * grid.shape[1] + y) * grid.shape[2]
    cdef Py_ssize_t x, begin
    cdef int step
    for x in range(first, end):
        bits[x] = NO_WEIGHT
        steps[x] = NO_STEP
    for step in range(N_STEPS):
        if has_row(grid, step, z, y):
            begin = max(first, first_x(grid, step))
            update_with_step(
                grid.intensity + row + begin, label + row + begin, grid.stride[step], grid.factor[step], step,
                min(end, end_x(grid, step)) - begin, bits + begin, steps + begin,
            )


cdef inline void update_with_step(
    const float* intensity, const int32_t* label, Py_ssize_t stride, float factor, int step,
    Py_ssize_t length, int32_t* bits, int32_t* steps,
) noexcept nogil:
    cdef const float* other_intensity = intensity + stride
    cdef const int32_t* other_label = label + stride
    cdef int32_t weight, lighter
    cdef Py_ssize_t x
    for x in range(length):
        weight = <int32_t>weight_bits(intensity[x], other_intensity[x], factor)
        lighter = -((weight < bits[x]) & (label[x] != other_label[x]))  # mask: all bits or none
        bits[x] = (weight & lighter) | (bits[x] & ~lighter)
        steps[x] = (step & lighter) | (steps[x] & ~lighter)


cdef inline int find_lightest_at_voxel(
    const Grid* grid, const int32_t* label, Py_ssize_t z, Py_ssize_t y, Py_ssize_t x
) noexcept nogil:
    """Find the step along the lightest edge of a single voxel."""
    cdef Py_ssize_t voxel = (z * grid.shape[1] + y) * grid.shape[2] + x
    cdef bint is_inside = (
        0 < z < grid.shape[0] - 1 and 0 < y < grid.shape[1] - 1 and 0 < x < grid.shape[2] - 1
    )
    cdef uint32_t lightest = NO_WEIGHT
    cdef uint32_t bits
    cdef int step
    cdef int found = NO_STEP
    for step in range(N_STEPS):
        if not is_inside and not (
            has_row(grid, step, z, y) and first_x(grid, step) <= x < end_x(grid, step)
        ):
            continue
        if label[voxel + grid.stride[step]] != label[voxel]:
            bits = step_bits(grid, voxel, step)
            if bits < lightest:
                lightest = bits
                found = step
    return found


cdef inline uint32_t find_lightest_steps(
    const Grid* grid, const int32_t* label, uint8_t* lightest_step, int32_t* bits, int32_t* steps
) noexcept nogil:
    """Find the steps of all voxels; return the bits of the lightest edge between segments.

    `bits` and `steps` are buffers for one row.
    """
    cdef Py_ssize_t width = grid.shape[2]
    cdef Py_ssize_t z, y, x
    cdef uint8_t* target = lightest_step
    cdef int32_t lightest = NO_WEIGHT
    for z in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            find_lightest_in_row(grid, label, z, y, 0, width, bits, steps)
            for x in range(width):
                target[x] = <uint8_t>steps[x]
                lightest = min(lightest, bits[x])
            target += width
    return <uint32_t>lightest
