"""Edge weights as float32 bit patterns, which sort like the weights, as these are not negative."""

from libc.math cimport fabsf
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    DIGIT_BITS = 11
    N_DIGITS = 1 << 11


cdef inline uint32_t weight_bits(float a, float b, float factor) noexcept nogil:
    return as_bits(fabsf(a - b) * factor)


cdef inline uint32_t as_bits(float weight) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, &weight, sizeof(bits))
    return bits


cdef inline float as_weight(uint32_t bits) noexcept nogil:
    cdef float weight
    memcpy(&weight, &bits, sizeof(weight))
    return weight


cdef inline uint64_t* radix_sort(
    uint64_t* entries, uint64_t* scratch, Py_ssize_t n_entries, int shift, uint64_t max_entry
) noexcept nogil:
    """Sort entries (at most `max_entry`) by their bits from `shift` up.

    Stable radix sort, least significant digit first. Overwrites `entries` and `scratch`; returns the one that
    holds the result.
    """
    cdef Py_ssize_t[N_DIGITS] offset
    cdef uint64_t* source = entries
    cdef uint64_t* target = scratch
    cdef Py_ssize_t i, digit, total, count
    while shift < 63 and max_entry >> shift:
        memset(offset, 0, sizeof(offset))
        for i in range(n_entries):
            offset[(source[i] >> shift) & (N_DIGITS - 1)] += 1
        total = 0
        for digit in range(N_DIGITS):
            count = offset[digit]
            offset[digit] = total
            total += count
        for i in range(n_entries):
            digit = (source[i] >> shift) & (N_DIGITS - 1)
            target[offset[digit]] = source[i]
            offset[digit] += 1
        source, target = target, source
        shift += DIGIT_BITS
    return source
