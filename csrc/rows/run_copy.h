/* Copies one field of consecutive records to a column, and prefetches other records in between. The distance of the
   records is constant, so no address is computed a row. C11, inline only. */
#ifndef REALLY_RUN_COPY_H
#define REALLY_RUN_COPY_H

#include "../common/memory.h"

enum { REALLY_RUN_GROUP = 4 }; /* rows of a field from one prefetch to the next */

/* What is prefetched: lines of rows that are copied next, to the first-level cache, and of rows far behind them, to the
   second. One alone takes longer: from memory, the next rows come too late; from the second level, each first field
   waits. Lines that are prefetched all at once would wait for each other. */
typedef struct {
    const char *next, *next_end, *later, *later_end;
    size_t num_lines; /* of both, during each field at least */
} ReallyAhead;

/* Copies `nbytes` of REALLY_RUN_GROUP records. Short ones are stored together: a store takes as long for 4 bytes as for
   16. With a constant size the compiler makes each other copy one load and one store. */
REALLY_INLINE void really_copy_group(char *restrict to, const char *restrict from, size_t stride, size_t nbytes) {
#if defined(REALLY_SSE2)
    if (nbytes == 4) {
        int32_t rows[REALLY_RUN_GROUP];
        for (size_t j = 0; j < REALLY_RUN_GROUP; j++) memcpy(&rows[j], from + j * stride, 4);
        _mm_storeu_si128((__m128i *)to, _mm_setr_epi32(rows[0], rows[1], rows[2], rows[3]));
        return;
    }
    if (nbytes == 8) {
        for (size_t j = 0; j < REALLY_RUN_GROUP; j += 2) {
            const __m128i first = _mm_loadl_epi64((const __m128i *)(from + j * stride));
            const __m128i second = _mm_loadl_epi64((const __m128i *)(from + (j + 1) * stride));
            _mm_storeu_si128((__m128i *)(to + j * 8), _mm_unpacklo_epi64(first, second));
        }
        return;
    }
#endif
    for (size_t j = 0; j < REALLY_RUN_GROUP; j++) memcpy(to + j * nbytes, from + j * stride, nbytes);
}

/* Copies `nbytes` of each of `num` records to where they lie next to each other. Prefetches may go past the end. */
REALLY_INLINE void really_copy_strided_sized(
    char *restrict to, const char *restrict from, size_t stride, size_t nbytes, size_t num, ReallyAhead *ahead
) {
    const char *next = ahead->next, *later = ahead->later;
    const size_t next_by = next < ahead->next_end ? REALLY_CACHE_LINE : 0;
    const size_t later_by = later < ahead->later_end ? REALLY_CACHE_LINE : 0;
    size_t i = 0;
    for (; i + REALLY_RUN_GROUP <= num; i += REALLY_RUN_GROUP) {
        really_copy_group(to + i * nbytes, from + i * stride, stride, nbytes);
        really_prefetch_l1(next);
        really_prefetch_l2(later);
        next += next_by;
        later += later_by;
    }
    for (; i < num; i++) memcpy(to + i * nbytes, from + i * stride, nbytes);
    ahead->next = next;
    ahead->later = later;
}

/* Copies `nbytes` of each of `num` records, which are `stride` bytes apart, to where they lie next to each other, and
   prefetches `ahead->num_lines` lines of both. */
static inline void really_copy_strided(
    char *to, const char *from, size_t stride, size_t nbytes, size_t num, ReallyAhead *ahead
) {
    switch (nbytes) {
        case 1: really_copy_strided_sized(to, from, stride, 1, num, ahead); break;
        case 2: really_copy_strided_sized(to, from, stride, 2, num, ahead); break;
        case 4: really_copy_strided_sized(to, from, stride, 4, num, ahead); break;
        case 8: really_copy_strided_sized(to, from, stride, 8, num, ahead); break;
        case 12: really_copy_strided_sized(to, from, stride, 12, num, ahead); break;
        case 16: really_copy_strided_sized(to, from, stride, 16, num, ahead); break;
        case 24: really_copy_strided_sized(to, from, stride, 24, num, ahead); break;
        case 32: really_copy_strided_sized(to, from, stride, 32, num, ahead); break;
        default: really_copy_strided_sized(to, from, stride, nbytes, num, ahead);
    }
    for (size_t line = num / REALLY_RUN_GROUP; line < ahead->num_lines; line++) { /* none of records of one line */
        if (ahead->next < ahead->next_end) really_prefetch_l1(ahead->next);
        if (ahead->later < ahead->later_end) really_prefetch_l2(ahead->later);
        ahead->next += REALLY_CACHE_LINE;
        ahead->later += REALLY_CACHE_LINE;
    }
}

#endif
