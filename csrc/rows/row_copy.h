/* Copies long rows at random addresses in groups: one cache line of each row in turn. The hardware prefetcher follows
   a row only after it has seen its start, so copying row by row would use few of the cache misses that a core can
   have in flight. */
#ifndef REALLY_ROW_COPY_H
#define REALLY_ROW_COPY_H

#include "../common/memory.h"

enum { REALLY_ROW_GROUP = 8 }; /* rows; the lines of more would evict each other from an L1 cache of 8 or 12 ways */

/* Bytes by which each row is prefetched ahead of its copy, whole lines. The caller prefetches as many at the start of
   each row. 768 are best for 1 MB of second-level cache: batches of rows of 3 kB take 1.03 times as long with 512 and
   1,024, and 1.1 times with 256. */
static inline size_t really_row_ahead(void) {
    const size_t nbytes = really_cache_nbytes / 4096 * 3 / REALLY_CACHE_LINE * REALLY_CACHE_LINE;
    return nbytes < 256 ? 256 : nbytes > 1024 ? 1024 : nbytes;
}

#if defined(__GNUC__)
#define REALLY_UNROLL_ROWS _Pragma("GCC unroll 8")
#else
#define REALLY_UNROLL_ROWS
#endif

/* Copies bytes `at` to `nbytes` of each row, `piece` to `2 * piece` bytes, as two pieces that may overlap. */
REALLY_INLINE void really_copy_tails(
    char *to, size_t stride, const char *const *rows, size_t at, size_t nbytes, int num, size_t piece
) {
    const size_t last = nbytes - piece;
    REALLY_UNROLL_ROWS
    for (int k = 0; k < num; k++) memcpy(to + k * stride + at, rows[k] + at, piece);
    if (last == at) return;
    REALLY_UNROLL_ROWS
    for (int k = 0; k < num; k++) memcpy(to + k * stride + last, rows[k] + last, piece);
}

/* Up to which byte of each row the line `ahead` bytes ahead is prefetched: to the end if the bytes behind the row are
   copied next, else as far as a byte of the row is ahead. */
static inline size_t really_prefetched_until(size_t nbytes, size_t ahead, int goes_on) {
    const size_t end = nbytes + REALLY_CACHE_LINE - 1;
    return goes_on ? nbytes : end > ahead ? end - ahead : 0;
}

/* Copies row k from `rows[k]` to `to + k * stride`. */
REALLY_INLINE void really_copy_rows_cached(
    char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int goes_on
) {
    const size_t rest = nbytes % REALLY_CACHE_LINE, lines = nbytes - rest;
    const size_t ahead = really_row_ahead(), until = really_prefetched_until(nbytes, ahead, goes_on);
    size_t at = 0;
    for (; at < lines && at < until; at += REALLY_CACHE_LINE) {
        REALLY_UNROLL_ROWS
        for (int k = 0; k < num; k++) {
            really_prefetch_l2(rows[k] + at + ahead);
            memcpy(to + k * stride + at, rows[k] + at, REALLY_CACHE_LINE);
        }
    }
    for (; at < lines; at += REALLY_CACHE_LINE) {
        REALLY_UNROLL_ROWS
        for (int k = 0; k < num; k++) memcpy(to + k * stride + at, rows[k] + at, REALLY_CACHE_LINE);
    }
    if (rest >= 32) really_copy_tails(to, stride, rows, lines, nbytes, num, 32);
    else if (rest >= 16) really_copy_tails(to, stride, rows, lines, nbytes, num, 16);
    else if (rest >= 8) really_copy_tails(to, stride, rows, lines, nbytes, num, 8);
    else if (rest >= 4) really_copy_tails(to, stride, rows, lines, nbytes, num, 4);
    else if (rest >= 2) really_copy_tails(to, stride, rows, lines, nbytes, num, 2);
    else if (rest == 1) really_copy_tails(to, stride, rows, lines, nbytes, num, 1);
}

/* The same with stores past the cache, from the first whole line of each row on. */
REALLY_INLINE void really_copy_rows_streamed(
    char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int goes_on
) {
    size_t start[REALLY_ROW_GROUP], lines = nbytes / REALLY_CACHE_LINE * REALLY_CACHE_LINE;
    for (int k = 0; k < num; k++) {
        const size_t past = (uintptr_t)(to + k * stride) % REALLY_CACHE_LINE;
        const size_t unaligned = (REALLY_CACHE_LINE - past) % REALLY_CACHE_LINE;
        start[k] = unaligned < nbytes ? unaligned : nbytes;
        if (start[k] != 0) really_copy_short(to + k * stride, rows[k], start[k]);
        if (nbytes - start[k] < lines) lines = (nbytes - start[k]) / REALLY_CACHE_LINE * REALLY_CACHE_LINE;
    }
    const size_t ahead = really_row_ahead(), until = really_prefetched_until(nbytes, ahead, goes_on);
    for (size_t at = 0; at < lines; at += REALLY_CACHE_LINE) {
        REALLY_UNROLL_ROWS
        for (int k = 0; k < num; k++) {
            if (at < until) really_prefetch_l2(rows[k] + at + ahead);
            really_stream_line(to + k * stride + start[k] + at, rows[k] + start[k] + at);
        }
    }
    for (int k = 0; k < num; k++) {
        const size_t at = start[k] + lines;
        if (at < nbytes) really_copy_short(to + k * stride + at, rows[k] + at, nbytes - at);
    }
}

REALLY_INLINE void really_copy_rows_any(
    char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int streams, int goes_on
) {
    enum { ALL = REALLY_ROW_GROUP };
    if (num == ALL && streams) really_copy_rows_streamed(to, stride, rows, nbytes, ALL, goes_on);
    else if (num == ALL) really_copy_rows_cached(to, stride, rows, nbytes, ALL, goes_on);
    else if (streams) really_copy_rows_streamed(to, stride, rows, nbytes, num, goes_on);
    else really_copy_rows_cached(to, stride, rows, nbytes, num, goes_on);
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx512f")
static void really_copy_rows_512(
    char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int streams, int goes_on
) {
    really_copy_rows_any(to, stride, rows, nbytes, num, streams, goes_on);
}

REALLY_TARGET("avx2")
static void really_copy_rows_256(
    char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int streams, int goes_on
) {
    really_copy_rows_any(to, stride, rows, nbytes, num, streams, goes_on);
}
#endif

/* Copies `num` rows (at most REALLY_ROW_GROUP) of `nbytes` each: row k from `rows[k]` to `to + k * stride`. With
   `goes_on` it prefetches what follows each row, too. With `streams` the stores go past the cache, unless they are plain
   C. Then call really_stream_fence() afterwards. */
static inline void really_copy_rows(
    char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int streams, int goes_on
) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX512) {
        really_copy_rows_512(to, stride, rows, nbytes, num, streams, goes_on);
        return;
    }
    if (really_cpu_level >= REALLY_CPU_AVX2) {
        really_copy_rows_256(to, stride, rows, nbytes, num, streams, goes_on);
        return;
    }
#endif
    really_copy_rows_any(to, stride, rows, nbytes, num, streams && really_cpu_level > REALLY_CPU_PLAIN, goes_on);
}

#endif
