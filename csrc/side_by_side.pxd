"""Long rows from anywhere in memory, copied side by side; side_by_side.h has the copy itself."""

from memory cimport REALLY_LINE, really_prefetch_far

cdef extern from "side_by_side.h" nogil:
    enum:
        REALLY_ROWS
    void really_copy_rows(
        char* to, size_t stride, const char** rows, size_t nbytes, int num, bint streams
    ) noexcept

cdef enum:
    OUT_OF_CACHE = 1 << 23  # bytes; a batch this long would not stay in the cache until it is used, so it goes past it
    START = 256  # bytes at the starts of the next rows that are asked for ahead; how they go on the processor sees by itself


cdef inline void prefetch_start(const char* row, Py_ssize_t nbytes) noexcept nogil:
    """Asks for the first lines of a row of `nbytes`."""
    cdef Py_ssize_t at = 0
    while at < min(nbytes, <Py_ssize_t>START):
        really_prefetch_far(row + at)
        at += REALLY_LINE
