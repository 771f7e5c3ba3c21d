"""Long rows at random addresses, copied a group at a time; row_copy.h has the copy."""

from cpu cimport really_cache_nbytes
from memory cimport REALLY_CACHE_LINE, really_prefetch_l2

cdef extern from "row_copy.h" nogil:
    enum:
        REALLY_ROW_GROUP
    size_t really_row_ahead() noexcept
    void really_copy_rows(
        char* to, size_t stride, const char** rows, size_t nbytes, int num, bint streams, bint goes_on
    ) noexcept


cdef inline bint is_past_the_cache(size_t nbytes) noexcept nogil:
    """Whether a batch is so large that it is written past the cache, and other data stay in it."""
    return nbytes >= 8 * really_cache_nbytes


cdef inline void prefetch_lines(const char* row, Py_ssize_t nbytes) noexcept nogil:
    """Prefetches the first `nbytes` of a row. `really_copy_rows` prefetches what follows `really_row_ahead()` bytes."""
    cdef Py_ssize_t at = 0
    while at < nbytes:
        really_prefetch_l2(row + at)
        at += REALLY_CACHE_LINE
