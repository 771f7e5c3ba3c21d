"""Long rows at random addresses, copied a group at a time; row_copy.h has the copy."""

from memory cimport REALLY_CACHE_LINE, really_prefetch_l2

cdef extern from "row_copy.h" nogil:
    enum:
        REALLY_ROW_PREFETCH
        REALLY_ROW_GROUP
    void really_copy_rows(
        char* to, size_t stride, const char** rows, size_t nbytes, int num, bint streams
    ) noexcept

cdef enum:
    OUT_OF_CACHE = 1 << 23  # bytes; a batch this large is written past the cache, so that other data stay in it


cdef inline void prefetch_lines(const char* row, Py_ssize_t nbytes) noexcept nogil:
    """Prefetches the first `nbytes` of a row. `really_copy_rows` prefetches what follows REALLY_ROW_PREFETCH bytes."""
    cdef Py_ssize_t at = 0
    while at < nbytes:
        really_prefetch_l2(row + at)
        at += REALLY_CACHE_LINE
