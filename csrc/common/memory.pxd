"""Declarations of memory.h: pages, cache lines, prefetch, streaming stores, stores and loads that are seen in order."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "memory.h" nogil:
    enum:
        REALLY_LINE
        REALLY_HUGE_PAGE
    void* really_pages_reserve(size_t nbytes) noexcept
    void really_pages_release(void* pages, size_t nbytes) noexcept
    int really_block_allocate(int file, uint32_t index, size_t nbytes) noexcept
    void* really_block_map(int file, uint32_t index, size_t nbytes, bint writable, bint huge) noexcept
    void* really_lines_new(size_t nbytes) noexcept
    void really_lines_free(void* lines) noexcept
    void really_copy(char* to, const char* source, size_t nbytes) noexcept
    void really_prefetch(const void* address) noexcept
    void really_prefetch_far(const void* address) noexcept
    bint really_same(const char* one, const char* other, size_t nbytes) noexcept
    bint really_moves(
        const char* before, const char* row, const char* after, size_t nbytes, size_t by
    ) noexcept
    void really_stream(char* to, const char* source, size_t nbytes, size_t ahead) noexcept
    void really_stream_whole(char* to, const char* source, size_t nbytes, size_t ahead) noexcept
    void really_stream_end() noexcept
    void really_commit(int64_t* to, int64_t value) noexcept
    int64_t really_look(const int64_t* at) noexcept
    void really_loads_end() noexcept
    void really_ask(const void* start, size_t nbytes) noexcept
    uint64_t really_multiply(uint64_t a, uint64_t b, uint64_t* low) noexcept
