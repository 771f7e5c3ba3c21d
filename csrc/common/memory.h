/* What Cython has no word for: pages, prefetch, streaming stores, ordered stores and loads, a 128-bit product. Plain C11, inline only. */
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
#endif
#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#define REALLY_SSE2 1
#endif

/* Functions for processors that have more than the build asks for; which one is run is decided when it runs. */
#if defined(__x86_64__) && defined(__GNUC__)
#define REALLY_WITH(features) __attribute__((target(features)))
#define REALLY_DISPATCHES 1
#endif

#if defined(__GNUC__)
#define REALLY_INLINE static inline __attribute__((always_inline))
#else
#define REALLY_INLINE static inline
#endif

enum { REALLY_LINE = 64, REALLY_HUGE_PAGE = 2 << 20 };

/* Pages: address space now, memory when first written; NULL when the system refuses. Zeroed by the system. */
static inline void *really_pages_reserve(size_t nbytes) {
#if defined(_WIN32)
    return VirtualAlloc(NULL, nbytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
#else
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
    flags |= MAP_NORESERVE;
#endif
    void *pages = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (pages == MAP_FAILED) return NULL;
#if defined(MADV_HUGEPAGE)
    if (nbytes >= REALLY_HUGE_PAGE) (void)madvise(pages, nbytes, MADV_HUGEPAGE);
#endif
    return pages;
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

/* Block `index` of a file of blocks: room on the disk (an errno, or 0), and its pages, huge ones where the file system has
   them and they are asked for; NULL when the system refuses. */
static inline int really_block_allocate(int file, uint32_t index, size_t nbytes) {
#if defined(_WIN32)
    (void)file, (void)index, (void)nbytes;
    return ENOSYS;
#else
    return posix_fallocate(file, (off_t)index * (off_t)nbytes, (off_t)nbytes);
#endif
}

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

/* Small blocks, aligned to a cache line. */
static inline void *really_lines_new(size_t nbytes) {
#if defined(_WIN32)
    return _aligned_malloc(nbytes, REALLY_LINE);
#else
    void *lines = NULL;
    return posix_memalign(&lines, REALLY_LINE, nbytes) == 0 ? lines : NULL;
#endif
}

static inline void really_lines_free(void *lines) {
#if defined(_WIN32)
    _aligned_free(lines);
#else
    free(lines);
#endif
}

/* Asks for a line: to the first cache where its turn comes at once; to the second for many lines at random places, of which
   the first can have far fewer on their way. */
static inline void really_prefetch(const void *address) {
#if defined(REALLY_SSE2)
    _mm_prefetch((const char *)address, _MM_HINT_T0);
#elif defined(__GNUC__)
    __builtin_prefetch(address, 0, 3);
#else
    (void)address;
#endif
}

static inline void really_prefetch_far(const void *address) {
#if defined(REALLY_SSE2)
    _mm_prefetch((const char *)address, _MM_HINT_T1);
#elif defined(__GNUC__)
    __builtin_prefetch(address, 0, 2);
#else
    (void)address;
#endif
}

enum { REALLY_COMPARED = 1024, REALLY_COMPARED_AHEAD = 2048 }; /* bytes compared before a look whether to go on; asked for before that */

/* Asks for what is compared after the next bytes from `at` on: the processor by itself stops to do so at the ends of
   pages. Behind a row's end most arrays have the next one. */
static inline void really_ask_compared(const char *from, size_t at) {
    for (size_t line = at + REALLY_COMPARED_AHEAD; line < at + REALLY_COMPARED_AHEAD + REALLY_COMPARED; line += REALLY_LINE)
        really_prefetch(from + line);
}

/* Whether many bytes are the same; `one` comes from memory. */
static inline int really_same(const char *one, const char *other, size_t nbytes) {
    for (size_t at = 0; at < nbytes; at += REALLY_COMPARED) {
        const size_t piece = nbytes - at < REALLY_COMPARED ? nbytes - at : REALLY_COMPARED;
        really_ask_compared(one, at);
        if (memcmp(one + at, other + at, piece) != 0) return 0;
    }
    return 1;
}

static inline uint64_t really_long_word(const char *from, size_t at) {
    uint64_t word;
    memcpy(&word, from + at, 8);
    return word;
}

/* Plain words, which the compiler makes vectors of. */
REALLY_INLINE int really_moves_words(const char *before, const char *row, const char *after, size_t nbytes, size_t by) {
    for (size_t at = 0; at < nbytes;) {
        const char *next = at < by ? row : after - by; /* the first frame is in no stack after it */
        const size_t limit = at < by ? by : nbytes, end = limit - at < REALLY_COMPARED ? limit : at + REALLY_COMPARED;
        const size_t words_end = end - (end - at) % 8;
        uint64_t differs = 0;
        really_ask_compared(row, at);
        if (at + REALLY_COMPARED_AHEAD >= by) really_ask_compared(after, at - by);
        for (size_t word = at; word < words_end; word += 8) {
            const uint64_t here = really_long_word(row, word);
            differs |= (here ^ really_long_word(before, word)) | (here ^ really_long_word(next, word));
        }
        for (at = words_end; at < end; at++) differs |= (row[at] != before[at]) | (row[at] != next[at]);
        if (differs != 0) return 0;
    }
    return 1;
}

#if defined(REALLY_DISPATCHES)
REALLY_WITH("avx2")
static int really_moves_avx2(const char *before, const char *row, const char *after, size_t nbytes, size_t by) {
    return really_moves_words(before, row, after, nbytes, by);
}

REALLY_WITH("avx512f")
static int really_moves_512(const char *before, const char *row, const char *after, size_t nbytes, size_t by) {
    return really_moves_words(before, row, after, nbytes, by);
}
#endif

/* Whether `row` is `before` and `after` begins with what is in it from `by` on, both from memory and `nbytes` long.
   What stands in one place is the same without a look. */
static inline int really_moves(const char *before, const char *row, const char *after, size_t nbytes, size_t by) {
    if (row + by == after) return row == before || really_same(row, before, nbytes);
    if (row == before) return really_same(after, row + by, nbytes - by);
#if defined(REALLY_DISPATCHES)
    if (__builtin_cpu_supports("avx512f")) return really_moves_512(before, row, after, nbytes, by);
    if (__builtin_cpu_supports("avx2")) return really_moves_avx2(before, row, after, nbytes, by);
#endif
    return really_moves_words(before, row, after, nbytes, by);
}

/* A copy of a few bytes, without a call for fewer than 256. */
static inline void really_copy(char *to, const char *from, size_t nbytes) {
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

#if defined(REALLY_DISPATCHES)
REALLY_WITH("avx512f") static void really_stream_512(char *to, const char *from, size_t nbytes, size_t ahead) {
    for (size_t at = 0; at < nbytes; at += REALLY_LINE) {
        if (ahead != 0) really_prefetch(from + at + ahead);
        _mm512_stream_si512((__m512i *)(to + at), _mm512_loadu_si512((const void *)(from + at)));
    }
}
#endif

/* A line past the cache, `to` aligned. */
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
    memcpy(to, from, REALLY_LINE);
#endif
}

/* Copies whole lines past the cache, `to` aligned: a load and a store each where there is AVX-512. */
static inline void really_stream_whole(char *to, const char *from, size_t nbytes, size_t ahead) {
#if defined(REALLY_DISPATCHES)
    if (__builtin_cpu_supports("avx512f")) {
        really_stream_512(to, from, nbytes, ahead);
        return;
    }
#endif
    for (size_t at = 0; at < nbytes; at += REALLY_LINE) {
        if (ahead != 0) really_prefetch(from + at + ahead);
        really_stream_line(to + at, from + at);
    }
}

/* Copies past the cache, whole lines at a time, with the source asked for `ahead` bytes before its turn (0: it is in
   the cache already). Call really_stream_end() before others may read. */
static inline void really_stream(char *to, const char *from, size_t nbytes, size_t ahead) {
    size_t at = (REALLY_LINE - (uintptr_t)to % REALLY_LINE) % REALLY_LINE;
    at = at < nbytes ? at : nbytes;
    if (at != 0) really_copy(to, from, at);
    const size_t whole = (nbytes - at) / REALLY_LINE * REALLY_LINE;
    really_stream_whole(to + at, from + at, whole, ahead);
    at += whole;
    if (at != nbytes) really_copy(to + at, from + at, nbytes - at);
}

static inline void really_stream_end(void) {
#if defined(REALLY_SSE2)
    _mm_sfence();
#elif defined(__GNUC__)
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* A store that no earlier one is seen after, by another process included. */
static inline void really_commit(int64_t *to, int64_t value) {
#if defined(_MSC_VER)
    _ReadWriteBarrier();
    *(volatile int64_t *)to = value;
    _ReadWriteBarrier();
#else
    __atomic_store_n(to, value, __ATOMIC_RELEASE);
#endif
}

/* A load that no later one is made before; and the end of loads that no later one is made before. */
static inline int64_t really_look(const int64_t *at) {
#if defined(_MSC_VER)
    int64_t value = *(const volatile int64_t *)at;
    _ReadWriteBarrier();
    return value;
#else
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#endif
}

static inline void really_loads_end(void) {
#if defined(_MSC_VER)
    _ReadWriteBarrier();
#else
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

/* Asks for the pages of a mapped file, without waiting for them. */
static inline void really_ask(const void *start, size_t nbytes) {
#if defined(MADV_WILLNEED)
    uintptr_t page = (uintptr_t)start & ~(uintptr_t)4095;
    (void)madvise((void *)page, (uintptr_t)start + nbytes - page, MADV_WILLNEED);
#else
    (void)start, (void)nbytes;
#endif
}

/* High and low half of a 64 x 64 bit product. */
static inline uint64_t really_multiply(uint64_t a, uint64_t b, uint64_t *low) {
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
