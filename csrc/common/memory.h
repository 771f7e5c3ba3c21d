/* What Cython cannot express: pages, prefetch, streaming stores, ordered stores and loads, a 128-bit product. C11,
   inline only. */
#ifndef REALLY_MEMORY_H
#define REALLY_MEMORY_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <malloc.h>
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#endif

#include "cpu.h"

enum { REALLY_CACHE_LINE = 64, REALLY_HUGE_PAGE = 2 << 20 };

/* Bytes of a page of the system: 4,096, or more on some processors. A mapping of a file starts at a multiple of it. */
static inline size_t really_page_nbytes(void) {
#if defined(_WIN32)
    return 4096;
#else
    const long nbytes = sysconf(_SC_PAGESIZE);
    return nbytes > 4096 ? (size_t)nbytes : 4096;
#endif
}

/* Reserves address space; the system gives zeroed memory when a page is first written. Long areas start at a huge page.
   Returns NULL if the system refuses. */
static inline void *really_pages_reserve(size_t nbytes) {
#if defined(_WIN32)
    return VirtualAlloc(NULL, nbytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
#else
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
    flags |= MAP_NORESERVE;
#endif
#if defined(MADV_HUGEPAGE)
    if (nbytes >= REALLY_HUGE_PAGE && nbytes <= SIZE_MAX - REALLY_HUGE_PAGE) {
        char *pages = mmap(NULL, nbytes + REALLY_HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (pages != MAP_FAILED) {
            const size_t page = really_page_nbytes();
            const size_t before = (REALLY_HUGE_PAGE - (uintptr_t)pages % REALLY_HUGE_PAGE) % REALLY_HUGE_PAGE;
            const size_t end = before + (nbytes + page - 1) / page * page;
            if (before != 0) (void)munmap(pages, before);
            if (end < nbytes + REALLY_HUGE_PAGE) (void)munmap(pages + end, nbytes + REALLY_HUGE_PAGE - end);
            (void)madvise(pages + before, nbytes, MADV_HUGEPAGE);
            return pages + before;
        }
    }
#endif
    void *pages = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
#endif
}

/* Gives the memory of pages back to the system and keeps their addresses; their contents are lost. */
static inline void really_pages_discard(void *pages, size_t nbytes) {
#if defined(_WIN32)
    (void)VirtualAlloc(pages, nbytes, MEM_RESET, PAGE_READWRITE);
#elif defined(MADV_DONTNEED)
    (void)madvise(pages, nbytes, MADV_DONTNEED);
#else
    (void)pages, (void)nbytes;
#endif
}

static inline void really_pages_release(void *pages, size_t nbytes) {
    if (pages == NULL) return;
#if defined(_WIN32)
    (void)nbytes;
    VirtualFree(pages, 0, MEM_RELEASE);
#else
    munmap(pages, nbytes);
#endif
}

/* Bytes of the disk that stay free: ext4 takes blocks of its own when allocated ones are first written. */
#define REALLY_DISK_MARGIN ((uint64_t)1 << 20)

/* Allocates block `index`, the next one, of a file of blocks on the disk. Returns 0 or an errno. */
static inline int really_block_allocate(int file, uint32_t index, size_t nbytes) {
#if !defined(__linux__)
    (void)file, (void)index, (void)nbytes;
    return ENOSYS;
#else
    struct statvfs disk;
    const off_t start = (off_t)index * (off_t)nbytes;
    if (fstatvfs(file, &disk) == 0
        && (uint64_t)disk.f_bavail * (uint64_t)disk.f_frsize < (uint64_t)nbytes + REALLY_DISK_MARGIN)
        return ENOSPC;
    const int error = posix_fallocate(file, start, (off_t)nbytes);
    /* A refused allocation keeps what it got before: give it back. */
    if (error != 0 && ftruncate(file, start) != 0) return error;
    return error;
#endif
}

/* Bytes of a file; 0 if the system does not say. */
static inline int64_t really_file_nbytes(int file) {
#if defined(_WIN32)
    (void)file;
    return 0;
#else
    struct stat found;
    return fstat(file, &found) == 0 ? (int64_t)found.st_size : 0;
#endif
}

/* Maps block `index` of a file of blocks, in huge pages if `huge` and the file system has them. Returns NULL if the
   system refuses. */
static inline void *really_block_map(int file, uint32_t index, size_t nbytes, int writable, int huge) {
#if defined(_WIN32)
    (void)file, (void)index, (void)nbytes, (void)writable, (void)huge;
    return NULL;
#else
    int rights = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *pages = mmap(NULL, nbytes, rights, MAP_SHARED, file, (off_t)index * (off_t)nbytes);
    if (pages == MAP_FAILED) return NULL;
#if defined(MADV_HUGEPAGE)
    if (huge) (void)madvise(pages, nbytes, MADV_HUGEPAGE);
#endif
    return pages;
#endif
}

/* A small block, aligned to a cache line. Returns NULL if there is no memory. */
static inline void *really_aligned_new(size_t nbytes) {
#if defined(_WIN32)
    return _aligned_malloc(nbytes, REALLY_CACHE_LINE);
#else
    void *lines = NULL;
    return posix_memalign(&lines, REALLY_CACHE_LINE, nbytes) == 0 ? lines : NULL;
#endif
}

static inline void really_aligned_free(void *lines) {
#if defined(_WIN32)
    _aligned_free(lines);
#else
    free(lines);
#endif
}

/* Prefetches one cache line to the first-level cache (L1) or the second (L2). Use L1 for a line that is read at once.
   Use L2 for many lines at random places: L2 can have far more of them in flight.

   GCC takes a function that only prefetches for one without effect and drops its calls. The empty assembly is an effect.
   It emits no instruction. */
static inline void really_prefetch_l1(const void *address) {
#if defined(__GNUC__)
    __builtin_prefetch(address, 0, 3);
    __asm__ volatile("" : : "r"(address));
#elif defined(REALLY_SSE2)
    _mm_prefetch((const char *)address, _MM_HINT_T0);
#else
    (void)address;
#endif
}

static inline void really_prefetch_l2(const void *address) {
#if defined(__GNUC__)
    __builtin_prefetch(address, 0, 2);
    __asm__ volatile("" : : "r"(address));
#elif defined(REALLY_SSE2)
    _mm_prefetch((const char *)address, _MM_HINT_T1);
#else
    (void)address;
#endif
}

enum { REALLY_COMPARE_CHUNK = 1024 }; /* bytes compared before the next test for a difference */
enum { REALLY_COMPARE_AHEAD = 2048 }; /* bytes between the one compared and the one prefetched */

/* Prefetches the chunk that is compared REALLY_COMPARE_AHEAD bytes after `at`: the hardware prefetcher stops at the
   end of a page. It reads past the row's end, where most arrays have the next row. */
static inline void really_prefetch_compared(const char *from, size_t at) {
    const size_t start = at + REALLY_COMPARE_AHEAD;
    for (size_t line = start; line < start + REALLY_COMPARE_CHUNK; line += REALLY_CACHE_LINE)
        really_prefetch_l1(from + line);
}

/* Whether two long runs of bytes are equal; `one` is the one that is not in the cache. */
static inline int really_equal(const char *one, const char *other, size_t nbytes) {
    for (size_t at = 0; at < nbytes; at += REALLY_COMPARE_CHUNK) {
        const size_t piece = nbytes - at < REALLY_COMPARE_CHUNK ? nbytes - at : REALLY_COMPARE_CHUNK;
        really_prefetch_compared(one, at);
        if (memcmp(one + at, other + at, piece) != 0) return 0;
    }
    return 1;
}

static inline uint64_t really_load_u64(const char *from, size_t at) {
    uint64_t word;
    memcpy(&word, from + at, 8);
    return word;
}

/* A loop over words, which the compiler vectorises. */
REALLY_INLINE int really_stack_continues_words(
    const char *before, const char *row, const char *after, size_t nbytes, size_t by
) {
    for (size_t at = 0; at < nbytes;) {
        const char *next = at < by ? row : after - by; /* the first frame is in no later stack */
        const size_t limit = at < by ? by : nbytes;
        const size_t end = limit - at < REALLY_COMPARE_CHUNK ? limit : at + REALLY_COMPARE_CHUNK;
        const size_t words_end = end - (end - at) % 8;
        uint64_t differs = 0;
        really_prefetch_compared(row, at);
        if (at + REALLY_COMPARE_AHEAD >= by) really_prefetch_compared(after, at - by);
        for (size_t word = at; word < words_end; word += 8) {
            const uint64_t here = really_load_u64(row, word);
            differs |= (here ^ really_load_u64(before, word)) | (here ^ really_load_u64(next, word));
        }
        for (at = words_end; at < end; at++) differs |= (row[at] != before[at]) | (row[at] != next[at]);
        if (differs != 0) return 0;
    }
    return 1;
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2")
static int really_stack_continues_avx2(
    const char *before, const char *row, const char *after, size_t nbytes, size_t by
) {
    return really_stack_continues_words(before, row, after, nbytes, by);
}

REALLY_TARGET("avx512f")
static int really_stack_continues_512(
    const char *before, const char *row, const char *after, size_t nbytes, size_t by
) {
    return really_stack_continues_words(before, row, after, nbytes, by);
}
#endif

/* Whether `row` equals `before`, and `after` begins with the bytes of `row` from `by` on. Both are `nbytes` long and
   not in the cache. Equal addresses are not compared. */
static inline int really_stack_continues(
    const char *before, const char *row, const char *after, size_t nbytes, size_t by
) {
    if (row + by == after) return row == before || really_equal(row, before, nbytes);
    if (row == before) return really_equal(after, row + by, nbytes - by);
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX512) return really_stack_continues_512(before, row, after, nbytes, by);
    if (really_cpu_level >= REALLY_CPU_AVX2) return really_stack_continues_avx2(before, row, after, nbytes, by);
#endif
    return really_stack_continues_words(before, row, after, nbytes, by);
}

/* Copies a few bytes; below 256 without a call of memcpy. */
static inline void really_copy_short(char *to, const char *from, size_t nbytes) {
    if (nbytes >= 256) {
        memcpy(to, from, nbytes);
    } else if (nbytes >= 16) {
        size_t at = 0;
        for (; at + 16 <= nbytes; at += 16) memcpy(to + at, from + at, 16);
        memcpy(to + nbytes - 16, from + nbytes - 16, 16);
    } else if (nbytes >= 4) {
        if (nbytes >= 8) memcpy(to, from, 8);
        else memcpy(to, from, 4);
        if (nbytes > 8) memcpy(to + nbytes - 8, from + nbytes - 8, 8);
        else memcpy(to + nbytes - 4, from + nbytes - 4, 4);
    } else {
        for (size_t at = 0; at < nbytes; at++) to[at] = from[at];
    }
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx512f") static void really_stream_512(char *to, const char *from, size_t nbytes, size_t ahead) {
    for (size_t at = 0; at < nbytes; at += REALLY_CACHE_LINE) {
        if (ahead != 0) really_prefetch_l1(from + at + ahead);
        _mm512_stream_si512((__m512i *)(to + at), _mm512_loadu_si512((const void *)(from + at)));
    }
}

REALLY_TARGET("avx2") static void really_stream_256(char *to, const char *from, size_t nbytes, size_t ahead) {
    for (size_t at = 0; at < nbytes; at += REALLY_CACHE_LINE) {
        if (ahead != 0) really_prefetch_l1(from + at + ahead);
        const __m256i a = _mm256_loadu_si256((const __m256i *)(from + at));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(from + at + 32));
        _mm256_stream_si256((__m256i *)(to + at), a);
        _mm256_stream_si256((__m256i *)(to + at + 32), b);
    }
}
#endif

/* Copies one line past the cache; `to` is aligned. */
REALLY_INLINE void really_stream_line(char *to, const char *from) {
#if defined(REALLY_SSE2)
    const __m128i a = _mm_loadu_si128((const __m128i *)from);
    const __m128i b = _mm_loadu_si128((const __m128i *)(from + 16));
    const __m128i c = _mm_loadu_si128((const __m128i *)(from + 32));
    const __m128i d = _mm_loadu_si128((const __m128i *)(from + 48));
    _mm_stream_si128((__m128i *)to, a);
    _mm_stream_si128((__m128i *)(to + 16), b);
    _mm_stream_si128((__m128i *)(to + 32), c);
    _mm_stream_si128((__m128i *)(to + 48), d);
#else
    memcpy(to, from, REALLY_CACHE_LINE);
#endif
}

/* A loop over lines; those of plain C go through the cache. */
REALLY_INLINE void really_stream_lines_any(char *to, const char *from, size_t nbytes, size_t ahead, int streams) {
    for (size_t at = 0; at < nbytes; at += REALLY_CACHE_LINE) {
        if (ahead != 0) really_prefetch_l1(from + at + ahead);
        if (streams) really_stream_line(to + at, from + at);
        else memcpy(to + at, from + at, REALLY_CACHE_LINE);
    }
}

/* Copies whole lines past the cache; `to` is aligned. With AVX-512 a line is one load and one store. */
static inline void really_stream_lines(char *to, const char *from, size_t nbytes, size_t ahead) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX512) {
        really_stream_512(to, from, nbytes, ahead);
        return;
    }
    if (really_cpu_level >= REALLY_CPU_AVX2) {
        really_stream_256(to, from, nbytes, ahead);
        return;
    }
#endif
    if (really_cpu_level > REALLY_CPU_PLAIN) really_stream_lines_any(to, from, nbytes, ahead, 1);
    else really_stream_lines_any(to, from, nbytes, ahead, 0);
}

/* Copies past the cache, whole lines at a time. Prefetches the source `ahead` bytes ahead; 0 if it is in the cache
   already. Call really_stream_fence() before others may read. */
static inline void really_stream_copy(char *to, const char *from, size_t nbytes, size_t ahead) {
    size_t at = (REALLY_CACHE_LINE - (uintptr_t)to % REALLY_CACHE_LINE) % REALLY_CACHE_LINE;
    at = at < nbytes ? at : nbytes;
    if (at != 0) really_copy_short(to, from, at);
    const size_t lines = (nbytes - at) / REALLY_CACHE_LINE * REALLY_CACHE_LINE;
    really_stream_lines(to + at, from + at, lines, ahead);
    at += lines;
    if (at != nbytes) really_copy_short(to + at, from + at, nbytes - at);
}

/* Writes pieces one behind the other past the cache, whole lines at a time. A line that two pieces share is put together
   in `line`. */
typedef struct {
    char *to;      /* the line that is written next; aligned */
    size_t filled; /* bytes in `line` */
    char line[REALLY_CACHE_LINE];
} really_stream;

/* Begins at `to`. The bytes before it in its line stay as they are. */
static inline void really_stream_begin(really_stream *stream, char *to) {
    stream->filled = (uintptr_t)to % REALLY_CACHE_LINE;
    stream->to = to - stream->filled;
    memcpy(stream->line, stream->to, stream->filled);
}

static inline void really_stream_append(really_stream *stream, const char *from, size_t nbytes, size_t ahead) {
    size_t at = 0;
    if (stream->filled != 0) {
        const size_t missing = REALLY_CACHE_LINE - stream->filled;
        at = missing < nbytes ? missing : nbytes;
        memcpy(stream->line + stream->filled, from, at);
        stream->filled += at;
        if (stream->filled < REALLY_CACHE_LINE) return;
        really_stream_lines(stream->to, stream->line, REALLY_CACHE_LINE, 0);
        stream->to += REALLY_CACHE_LINE;
    }
    const size_t lines = (nbytes - at) / REALLY_CACHE_LINE * REALLY_CACHE_LINE;
    really_stream_lines(stream->to, from + at, lines, ahead);
    stream->to += lines;
    stream->filled = nbytes - at - lines;
    memcpy(stream->line, from + at + lines, stream->filled);
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2") static int really_stream_compared_256(
    char *to, const char *from, const char *other, size_t nbytes, size_t ahead
) {
    __m256i differs = _mm256_setzero_si256();
    for (size_t at = 0; at < nbytes; at += REALLY_CACHE_LINE) {
        really_prefetch_l1(from + at + ahead);
        really_prefetch_l1(other + at + ahead);
        const __m256i a = _mm256_loadu_si256((const __m256i *)(from + at));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(from + at + 32));
        const __m256i c = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(other + at)));
        const __m256i d = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(other + at + 32)));
        differs = _mm256_or_si256(differs, _mm256_or_si256(c, d));
        _mm256_stream_si256((__m256i *)(to + at), a);
        _mm256_stream_si256((__m256i *)(to + at + 32), b);
    }
    return _mm256_testz_si256(differs, differs);
}
#endif

/* `really_stream_lines`, which also says whether `other` has the same bytes. Both are read from memory at once. */
static inline int really_stream_lines_compared(
    char *to, const char *from, const char *other, size_t nbytes, size_t ahead
) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX2) return really_stream_compared_256(to, from, other, nbytes, ahead);
#endif
    int same = 1;
    for (size_t at = 0; at < nbytes; at += REALLY_CACHE_LINE) {
        really_prefetch_l1(from + at + ahead);
        really_prefetch_l1(other + at + ahead);
        same = same && memcmp(from + at, other + at, REALLY_CACHE_LINE) == 0;
        if (really_cpu_level > REALLY_CPU_PLAIN) really_stream_line(to + at, from + at);
        else memcpy(to + at, from + at, REALLY_CACHE_LINE);
    }
    return same;
}

/* `really_stream_append`, which also says whether `other` has the same bytes. */
static inline int really_stream_append_compared(
    really_stream *stream, const char *from, const char *other, size_t nbytes, size_t ahead
) {
    const size_t missing = (REALLY_CACHE_LINE - stream->filled) % REALLY_CACHE_LINE;
    const size_t head = missing < nbytes ? missing : nbytes;
    const size_t lines = (nbytes - head) / REALLY_CACHE_LINE * REALLY_CACHE_LINE;
    const size_t rest = nbytes - head - lines;
    if (head != 0) really_stream_append(stream, from, head, 0);
    int same = really_stream_lines_compared(stream->to, from + head, other + head, lines, ahead);
    stream->to += lines;
    if (rest != 0) really_stream_append(stream, from + head + lines, rest, 0);
    return same && memcmp(from, other, head) == 0 && memcmp(from + head + lines, other + head + lines, rest) == 0;
}

/* Writes the last line, of which the bytes behind the last piece stay as they are. Does nothing to a stream of zeros. */
static inline void really_stream_end(really_stream *stream) {
    if (stream->filled != 0) memcpy(stream->to, stream->line, stream->filled);
    stream->filled = 0;
}

/* Orders streaming stores before all later stores. */
static inline void really_stream_fence(void) {
#if defined(REALLY_SSE2)
    _mm_sfence();
#elif defined(__GNUC__)
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Release store: everything stored before it is visible, to other processes too, once this store is. */
static inline void really_store_release(int64_t *to, int64_t value) {
#if defined(_MSC_VER)
    _ReadWriteBarrier();
    *(volatile int64_t *)to = value;
    _ReadWriteBarrier();
#else
    __atomic_store_n(to, value, __ATOMIC_RELEASE);
#endif
}

/* Acquire load; and, below, an acquire fence after plain loads. */
static inline int64_t really_load_acquire(const int64_t *at) {
#if defined(_MSC_VER)
    int64_t value = *(const volatile int64_t *)at;
    _ReadWriteBarrier();
    return value;
#else
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#endif
}

static inline void really_acquire_fence(void) {
#if defined(_MSC_VER)
    _ReadWriteBarrier();
#else
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

/* Tells the system that these pages of a mapped file are needed soon; does not wait for them. */
static inline void really_advise_willneed(const void *start, size_t nbytes) {
#if defined(MADV_WILLNEED)
    const uintptr_t page = (uintptr_t)start & ~((uintptr_t)really_page_nbytes() - 1);
    (void)madvise((void *)page, (uintptr_t)start + nbytes - page, MADV_WILLNEED);
#else
    (void)start, (void)nbytes;
#endif
}

/* The 64 x 64 bit product: returns the high half, and writes the low half to `low`. */
static inline uint64_t really_multiply_128(uint64_t a, uint64_t b, uint64_t *low) {
#if defined(_MSC_VER) && defined(_M_X64)
    uint64_t high;
    *low = _umul128(a, b, &high);
    return high;
#else
    unsigned __int128 product = (unsigned __int128)a * b;
    *low = (uint64_t)product;
    return (uint64_t)(product >> 64);
#endif
}

#endif
