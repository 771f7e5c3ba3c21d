/* Long rows from anywhere in memory, copied side by side: a line of each in turns. The processor asks ahead inside of what it
   has seen the start of, so a row at a time leaves most of what a core can have under way unused. */
#ifndef REALLY_SIDE_BY_SIDE_H
#define REALLY_SIDE_BY_SIDE_H

#include "../common/memory.h"

enum { REALLY_ROWS = 8 }; /* side by side; of more, lines push each other out of a first cache of 8 or 12 ways */
enum { REALLY_ASKED = 256 }; /* bytes of each that are asked for before their turn; of the next rows, by whoever calls */

#if defined(__GNUC__)
#define REALLY_UNROLL_ROWS _Pragma("GCC unroll 8")
#else
#define REALLY_UNROLL_ROWS
#endif

/* Bytes `at` to `nbytes` of rows, which are one or two pieces' lengths, as a piece from the start and one to the end. */
REALLY_INLINE void really_copy_ends(
    char *to, size_t stride, const char *const *rows, size_t at, size_t nbytes, int num, size_t piece
) {
    const size_t last = nbytes - piece;
    REALLY_UNROLL_ROWS
    for (int k = 0; k < num; k++) memcpy(to + k * stride + at, rows[k] + at, piece);
    if (last == at) return;
    REALLY_UNROLL_ROWS
    for (int k = 0; k < num; k++) memcpy(to + k * stride + last, rows[k] + last, piece);
}

/* Row k from `rows[k]` to `to + k * stride`. */
REALLY_INLINE void really_copy_rows_cached(char *to, size_t stride, const char *const *rows, size_t nbytes, int num) {
    const size_t rest = nbytes % REALLY_LINE, whole = nbytes - rest;
    for (size_t at = 0; at < whole; at += REALLY_LINE)
        REALLY_UNROLL_ROWS
        for (int k = 0; k < num; k++) {
            really_prefetch_far(rows[k] + at + REALLY_ASKED);
            memcpy(to + k * stride + at, rows[k] + at, REALLY_LINE);
        }
    if (rest >= 32) really_copy_ends(to, stride, rows, whole, nbytes, num, 32);
    else if (rest >= 16) really_copy_ends(to, stride, rows, whole, nbytes, num, 16);
    else if (rest >= 8) really_copy_ends(to, stride, rows, whole, nbytes, num, 8);
    else if (rest >= 4) really_copy_ends(to, stride, rows, whole, nbytes, num, 4);
    else if (rest >= 2) really_copy_ends(to, stride, rows, whole, nbytes, num, 2);
    else if (rest == 1) really_copy_ends(to, stride, rows, whole, nbytes, num, 1);
}

/* The same past the cache, each row from its first whole line on. */
REALLY_INLINE void really_copy_rows_streamed(char *to, size_t stride, const char *const *rows, size_t nbytes, int num) {
    size_t start[REALLY_ROWS], whole = nbytes / REALLY_LINE * REALLY_LINE;
    for (int k = 0; k < num; k++) {
        const size_t unaligned = (REALLY_LINE - (uintptr_t)(to + k * stride) % REALLY_LINE) % REALLY_LINE;
        start[k] = unaligned < nbytes ? unaligned : nbytes;
        if (start[k] != 0) really_copy(to + k * stride, rows[k], start[k]);
        if (nbytes - start[k] < whole) whole = (nbytes - start[k]) / REALLY_LINE * REALLY_LINE;
    }
    for (size_t at = 0; at < whole; at += REALLY_LINE)
        REALLY_UNROLL_ROWS
        for (int k = 0; k < num; k++) {
            really_prefetch_far(rows[k] + at + REALLY_ASKED);
            really_stream_line(to + k * stride + start[k] + at, rows[k] + start[k] + at);
        }
    for (int k = 0; k < num; k++) {
        const size_t at = start[k] + whole;
        if (at < nbytes) really_copy(to + k * stride + at, rows[k] + at, nbytes - at);
    }
}

REALLY_INLINE void really_copy_rows_any(
    char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int streams
) {
    if (num == REALLY_ROWS && streams) really_copy_rows_streamed(to, stride, rows, nbytes, REALLY_ROWS);
    else if (num == REALLY_ROWS) really_copy_rows_cached(to, stride, rows, nbytes, REALLY_ROWS);
    else if (streams) really_copy_rows_streamed(to, stride, rows, nbytes, num);
    else really_copy_rows_cached(to, stride, rows, nbytes, num);
}

#if defined(REALLY_DISPATCHES)
REALLY_WITH("avx512f")
static void really_copy_rows_512(char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int streams) {
    really_copy_rows_any(to, stride, rows, nbytes, num, streams);
}
#endif

/* Copies `num` rows (at most REALLY_ROWS) of `nbytes` each: row k from `rows[k]` to `to + k * stride`. `streams` asks for
   stores past the cache; really_stream_end() has to follow. */
static inline void really_copy_rows(char *to, size_t stride, const char *const *rows, size_t nbytes, int num, int streams) {
#if defined(REALLY_DISPATCHES)
    if (__builtin_cpu_supports("avx512f")) {
        really_copy_rows_512(to, stride, rows, nbytes, num, streams);
        return;
    }
#endif
    really_copy_rows_any(to, stride, rows, nbytes, num, streams);
}

#endif
