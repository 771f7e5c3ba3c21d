"""Unbiased random integers below a bound from a NumPy bit generator (Lemire 2019, arXiv:1805.10941)."""

from libc.stdint cimport int64_t, uint64_t
from numpy.random cimport bitgen_t

from memory cimport really_multiply_128


cdef extern from "random_words.h" nogil:
    enum:
        DRAW_BLOCK "REALLY_DRAW_BLOCK"
    bint really_sfc64_found(bitgen_t* source, const uint64_t* state) noexcept
    void really_next_words(bitgen_t* source, uint64_t* words, size_t num) noexcept
    void really_draw_narrow(bitgen_t* source, uint64_t bound, int64_t* numbers, size_t num) noexcept


cdef inline void draw(bitgen_t* source, int64_t bound, int64_t* numbers, Py_ssize_t num) noexcept nogil:
    """Fills `numbers` with independent uniform integers from [0, bound), bound >= 1.

    Calls of DRAW_BLOCK numbers each give the same numbers as one call.
    """
    cdef Py_ssize_t first = 0
    while first < num:
        if bound <= <int64_t>0xFFFFFFFF:
            really_draw_narrow(source, <uint64_t>bound, numbers + first, min(num - first, <Py_ssize_t>DRAW_BLOCK))
        else:
            draw_wide(source, <uint64_t>bound, numbers + first, min(num - first, <Py_ssize_t>DRAW_BLOCK))
        first += DRAW_BLOCK


cdef inline double as_part(int64_t drawn) noexcept nogil:
    """A random integer of 53 bits as a number from 0 to before 1."""
    return drawn * 2.0**-53


cdef inline void draw_wide(
    bitgen_t* source, uint64_t bound, int64_t* numbers, Py_ssize_t num
) noexcept nogil:
    cdef uint64_t surplus = (<uint64_t>0 - bound) % bound  # 2**64 mod bound
    cdef uint64_t[DRAW_BLOCK] words
    cdef uint64_t low = 0, high
    cdef Py_ssize_t filled = 0, missing = num, i
    while missing > 0:
        really_next_words(source, words, missing)
        for i in range(missing):
            high = really_multiply_128(words[i], bound, &low)
            numbers[filled] = <int64_t>high
            filled += low >= surplus
        missing = num - filled


cdef inline Py_ssize_t table_nbytes(Py_ssize_t num) noexcept nogil:
    """Bytes of the hash table that `draw_distinct` needs for `num` numbers: a power of two, at most half full."""
    cdef Py_ssize_t length = 4
    while length < 4 * num:
        length *= 2
    return length * 2 * sizeof(int64_t)


cdef inline void draw_distinct(
    bitgen_t* source, int64_t bound, int64_t* numbers, Py_ssize_t num, int64_t* table
) noexcept nogil:
    """Fills `numbers` with `num` <= bound distinct integers from [0, bound); all ordered choices are equally likely.

    A Fisher-Yates shuffle of 0, 1, ..., bound - 1 from the front. A hash table holds only the numbers that have moved.
    """
    cdef Py_ssize_t length = table_nbytes(num) // (2 * sizeof(int64_t))
    cdef Py_ssize_t i, at
    cdef int64_t other = 0, here
    for i in range(length):
        table[2 * i] = -1
    for i in range(num):
        draw(source, bound - i, &other, 1)
        here = value_at(table, length, i)
        at = find_slot(table, length, i + other)
        numbers[i] = i + other if table[2 * at] < 0 else table[2 * at + 1]
        table[2 * at] = i + other
        table[2 * at + 1] = here


cdef inline void draw_distinct_batches(
    bitgen_t* source, int64_t bound, int64_t* numbers, Py_ssize_t total, Py_ssize_t num, int64_t* table
) noexcept nogil:
    """Fills `numbers` with `total` integers, each `num` of them as by `draw_distinct`."""
    cdef Py_ssize_t first = 0
    while first < total:
        draw_distinct(source, bound, numbers + first, num, table)
        first += num


cdef inline int64_t value_at(const int64_t* table, Py_ssize_t length, int64_t place) noexcept nogil:
    """The number that is at `place` now."""
    cdef Py_ssize_t at = find_slot(table, length, place)
    return place if table[2 * at] < 0 else table[2 * at + 1]


cdef inline Py_ssize_t find_slot(const int64_t* table, Py_ssize_t length, int64_t place) noexcept nogil:
    """The table entry of `place`, or the free entry where it belongs."""
    cdef Py_ssize_t at = <Py_ssize_t>((<uint64_t>place * <uint64_t>0x9E3779B97F4A7C15) >> 20) & (length - 1)
    while table[2 * at] >= 0 and table[2 * at] != place:
        at = (at + 1) & (length - 1)
    return at
