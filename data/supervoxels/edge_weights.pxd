"""Weights as the bit patterns of float32, which sort as they do: they are never negative."""

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


cdef inline uint64_t* sort_entries(
    uint64_t* entries, uint64_t* scratch, Py_ssize_t n_entries, int shift, uint64_t highest
) noexcept nogil:
    """Sort entries, at most `highest`, by their bits from `shift` on; return which of the two holds them.

    A stable radix sort, last digit first.
    """
    cdef Py_ssize_t[N_DIGITS] place
    cdef uint64_t* source = entries
    cdef uint64_t* target = scratch
    cdef Py_ssize_t i, digit, total, count
    while shift < 63 and highest >> shift:
        memset(place, 0, sizeof(place))
        for i in range(n_entries):
            place[(source[i] >> shift) & (N_DIGITS - 1)] += 1
        total = 0
        for digit in range(N_DIGITS):
            count = place[digit]
            place[digit] = total
            total += count
        for i in range(n_entries):
            digit = (source[i] >> shift) & (N_DIGITS - 1)
            target[place[digit]] = source[i]
            place[digit] += 1
        source, target = target, source
        shift += DIGIT_BITS
    return source
