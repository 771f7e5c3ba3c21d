"""Declarations of memory.h: pages, cache lines, prefetch, streaming stores, ordered stores and loads; sizes that are
rounded up."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "memory.h" nogil:
    enum:
        REALLY_CACHE_LINE
        REALLY_HUGE_PAGE
        REALLY_COMPARE_CHUNK
    void* really_pages_reserve(size_t nbytes) noexcept
    void really_pages_release(void* pages, size_t nbytes) noexcept
    void really_pages_discard(void* pages, size_t nbytes) noexcept
    int really_block_allocate(int file, uint32_t index, size_t nbytes) noexcept
    int64_t really_file_nbytes(int file) noexcept
    size_t really_page_nbytes() noexcept
    void* really_block_map(int file, uint32_t index, size_t nbytes, bint writable, bint huge) noexcept
    void* really_aligned_new(size_t nbytes) noexcept
    void really_aligned_free(void* lines) noexcept
    void really_copy_short(char* to, const char* source, size_t nbytes) noexcept
    void really_prefetch_l1(const void* address) noexcept
    void really_prefetch_l2(const void* address) noexcept
    void really_prefetch_compared(const char* source, size_t at) noexcept
    bint really_equal(const char* one, const char* other, size_t nbytes) noexcept
    bint really_stack_continues(
        const char* before, const char* row, const char* after, size_t nbytes, size_t by
    ) noexcept
    void really_stream_copy(char* to, const char* source, size_t nbytes, size_t ahead) noexcept
    void really_stream_lines(char* to, const char* source, size_t nbytes, size_t ahead) noexcept
    ctypedef struct really_stream:
        pass
    void really_stream_begin(really_stream* stream, char* to) noexcept
    void really_stream_append(really_stream* stream, const char* source, size_t nbytes, size_t ahead) noexcept
    bint really_stream_append_compared(
        really_stream* stream, const char* source, const char* other, size_t nbytes, size_t ahead
    ) noexcept
    void really_stream_end(really_stream* stream) noexcept
    void really_stream_fence() noexcept
    void really_store_release(int64_t* to, int64_t value) noexcept
    int64_t really_load_acquire(const int64_t* at) noexcept
    void really_acquire_fence() noexcept
    void really_advise_willneed(const void* start, size_t nbytes) noexcept
    uint64_t really_multiply_128(uint64_t a, uint64_t b, uint64_t* low) noexcept


cdef inline Py_ssize_t round_up(Py_ssize_t size, Py_ssize_t multiple) noexcept nogil:
    return (size + multiple - 1) // multiple * multiple
