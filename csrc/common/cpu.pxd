"""Which instructions the kernels use, and the size of the cache; cpu.h has both.

All levels give the same bytes, the higher ones faster.
"""

cdef extern from "cpu.h" nogil:
    const size_t really_cache_nbytes
    const char* really_cpu_name(int level) noexcept
    int really_cpu_best() noexcept
    size_t really_cache_found() noexcept
    void really_cpu_use(int level, size_t cache_nbytes) noexcept


cdef inline tuple level_names():
    """The names of the levels that build and processor have, the slowest first."""
    cdef int level
    return tuple([really_cpu_name(level).decode() for level in range(really_cpu_best() + 1)])
