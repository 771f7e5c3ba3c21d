/* Copies one field of consecutive records to a column. Their distance is constant, so no address is computed a row. */
#ifndef REALLY_RUN_COPY_H
#define REALLY_RUN_COPY_H

#include "../common/memory.h"

/* With a constant size the compiler makes each copy one load and one store. */
REALLY_INLINE void really_copy_strided_sized(
    char *restrict to, const char *restrict from, size_t stride, size_t nbytes, size_t num
) {
    for (size_t i = 0; i < num; i++) memcpy(to + i * nbytes, from + i * stride, nbytes);
}

/* Copies `nbytes` of each of `num` records, which are `stride` bytes apart, to where they lie next to each other. */
static inline void really_copy_strided(char *to, const char *from, size_t stride, size_t nbytes, size_t num) {
    switch (nbytes) {
        case 1: really_copy_strided_sized(to, from, stride, 1, num); break;
        case 2: really_copy_strided_sized(to, from, stride, 2, num); break;
        case 4: really_copy_strided_sized(to, from, stride, 4, num); break;
        case 8: really_copy_strided_sized(to, from, stride, 8, num); break;
        case 12: really_copy_strided_sized(to, from, stride, 12, num); break;
        case 16: really_copy_strided_sized(to, from, stride, 16, num); break;
        case 24: really_copy_strided_sized(to, from, stride, 24, num); break;
        case 32: really_copy_strided_sized(to, from, stride, 32, num); break;
        default: really_copy_strided_sized(to, from, stride, nbytes, num);
    }
}

#endif
