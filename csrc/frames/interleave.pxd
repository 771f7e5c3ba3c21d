"""Rows whose stack axis is not the first: frames `[outer, inner]` of rows `[outer, stack, inner]`, taken apart and put together.

Four frames of single bytes, as most Atari code has them, go through weave.h.
"""

from libc.string cimport memcpy

cdef extern from "interleave.h" nogil:
    enum:
        REALLY_OTHER
        REALLY_MOVED
        REALLY_STOOD
    void really_weave4(
        char* row, char* after, const char** frames, int many, size_t num, bint streams
    ) noexcept
    void really_unweave4(char* frames, const char* row, size_t num) noexcept
    int really_compare4(
        const char* before, const char* row, const char* after, char* newest, size_t num
    ) noexcept


cdef inline bint is_quick(int stack, Py_ssize_t outer, Py_ssize_t inner) noexcept nogil:
    """Whether weave.h has such rows."""
    return stack == 4 and inner == 1 and outer > 1


cdef inline void take_apart(
    char* frames, const char* row, int stack, Py_ssize_t outer, Py_ssize_t inner
) noexcept nogil:
    """Frames `[stack, outer, inner]` of a row."""
    cdef Py_ssize_t i
    cdef int j
    if is_quick(stack, outer, inner):
        really_unweave4(frames, row, outer)
        return
    for j in range(stack):
        for i in range(outer):
            memcpy(frames + (j * outer + i) * inner, row + (i * stack + j) * inner, inner)


cdef inline void put_together(
    char* row, const char** frames, int stack, Py_ssize_t outer, Py_ssize_t inner
) noexcept nogil:
    """A row of its frames, of which each stands somewhere."""
    cdef Py_ssize_t i
    cdef int j
    for i in range(outer):
        for j in range(stack):
            memcpy(row + (i * stack + j) * inner, frames[j] + i * inner, inner)
