"""Long rows from anywhere in memory, copied side by side; side_by_side.h has the copy itself."""

from memory cimport REALLY_LINE, really_prefetch_far

cdef extern from "row_copy.h" nogil:
    enum:
        REALLY_ASKED
        REALLY_ROWS
    void really_copy_rows(
        char* to, size_t stride, const char** rows, size_t nbytes, int num, bint streams
    ) noexcept

cdef enum:
    OUT_OF_CACHE = 1 << 23  # bytes; a batch this long goes past the cache, which leaves other data their place there


cdef inline void prefetch_lines(const char* row, Py_ssize_t nbytes) noexcept nogil:
    """Asks for the first `nbytes` of a row; its copy side by side asks for what follows REALLY_ASKED."""
    cdef Py_ssize_t at = 0
    while at < nbytes:
        really_prefetch_far(row + at)
        at += REALLY_LINE
