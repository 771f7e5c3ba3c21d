"""Splits rows `[outer, stack, inner]`, whose stack axis is not the first, into frames `[outer, inner]`, and joins them.

interleave.h has the fast path for four frames of single bytes, which most Atari code uses.
"""

from libc.string cimport memcpy

from row_copy cimport is_past_the_cache

cdef extern from "interleave.h" nogil:
    enum:
        REALLY_UNRELATED
        REALLY_SHIFTED
        REALLY_REPEATED
    bint really_interleave_streams(size_t nbytes) noexcept
    void really_interleave4(
        char* row, char* after, const char** frames, int num_stacks, size_t num, bint streams
    ) noexcept
    void really_deinterleave4(char* frames, const char* row, size_t num) noexcept
    int really_compare4(
        const char* before, const char* row, const char* after, char* newest, size_t num
    ) noexcept


cdef inline bint has_fast_path(int stack, Py_ssize_t outer, Py_ssize_t inner) noexcept nogil:
    """Whether interleave.h has a fast path for such rows."""
    return stack == 4 and inner == 1 and outer > 1


cdef inline bint frames_pass_the_cache(int stack, Py_ssize_t outer, Py_ssize_t inner, size_t nbytes) noexcept nogil:
    """Whether so many bytes of such rows are written past the cache."""
    return really_interleave_streams(nbytes) if has_fast_path(stack, outer, inner) else is_past_the_cache(nbytes)


cdef inline void deinterleave(
    char* frames, const char* row, int stack, Py_ssize_t outer, Py_ssize_t inner
) noexcept nogil:
    """Splits a row into frames `[stack, outer, inner]`."""
    cdef Py_ssize_t i
    cdef int j
    if has_fast_path(stack, outer, inner):
        really_deinterleave4(frames, row, outer)
        return
    for j in range(stack):
        for i in range(outer):
            memcpy(frames + (j * outer + i) * inner, row + (i * stack + j) * inner, inner)


cdef inline void interleave(
    char* row, const char** frames, int stack, Py_ssize_t outer, Py_ssize_t inner
) noexcept nogil:
    """Writes a row from its frames, each at an address of its own."""
    cdef Py_ssize_t i
    cdef int j
    for i in range(outer):
        for j in range(stack):
            memcpy(row + (i * stack + j) * inner, frames[j] + i * inner, inner)
