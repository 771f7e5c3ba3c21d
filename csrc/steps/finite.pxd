"""Whether all numbers of an array are finite, told by the bits of their exponents, which compilers vectorise."""

from libc.stdint cimport uint32_t, uint64_t


cdef inline bint are_finite_singles(const uint32_t* bits, Py_ssize_t num) noexcept nogil:
    cdef uint32_t found = 0
    cdef Py_ssize_t i
    for i in range(num):
        found |= (bits[i] & <uint32_t>0x7F800000) == <uint32_t>0x7F800000
    return not found


cdef inline bint are_finite_doubles(const uint64_t* bits, Py_ssize_t num) noexcept nogil:
    cdef uint64_t exponent = <uint64_t>0x7FF << 52, found = 0
    cdef Py_ssize_t i
    for i in range(num):
        found |= (bits[i] & exponent) == exponent
    return not found
