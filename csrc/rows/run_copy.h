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
    const char *near, *near_end, *far, *far_end;
} ReallyAhead;

/* With a constant size the compiler makes each copy one load and one store. Prefetches may go past the end. */
REALLY_INLINE void really_copy_strided_sized(
    char *restrict to, const char *restrict from, size_t stride, size_t nbytes, size_t num, ReallyAhead *ahead
) {
    const char *near = ahead->near, *far = ahead->far;
    const size_t near_by = near < ahead->near_end ? REALLY_CACHE_LINE : 0;
    const size_t far_by = far < ahead->far_end ? REALLY_CACHE_LINE : 0;
    size_t i = 0;
    for (; i + REALLY_RUN_GROUP <= num; i += REALLY_RUN_GROUP) {
        for (size_t j = i; j < i + REALLY_RUN_GROUP; j++) memcpy(to + j * nbytes, from + j * stride, nbytes);
        really_prefetch_l1(near);
        really_prefetch_l2(far);
        near += near_by;
        far += far_by;
    }
    for (; i < num; i++) memcpy(to + i * nbytes, from + i * stride, nbytes);
    ahead->near = near;
    ahead->far = far;
}

/* Copies `nbytes` of each of `num` records, which are `stride` bytes apart, to where they lie next to each other. */
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
}

#endif
