/* Keeps the ages whose rows are not removed. C11, inline only. */
#ifndef REALLY_LEFT_ROWS_H
#define REALLY_LEFT_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "../common/cpu.h"

/* Writes the age to `left` and returns whether its row is left. No branch, as it would be mispredicted. */
REALLY_INLINE size_t really_keep_age(
    const uint64_t *words, int64_t oldest, int64_t to_wrap, int64_t age, int64_t *left) {
    const uint64_t from_oldest = (uint64_t)(age + oldest), from_first = (uint64_t)(age - to_wrap); /* huge if below 0 */
    const uint64_t slot = from_oldest < from_first ? from_oldest : from_first;
    *left = age;
    return (words[slot / 64] >> (slot % 64)) & 1;
}

/* Copies those of `num` ages whose rows are left, but at most `most`; returns how many. A bit of `words` says whether the
   row of a slot is left. Age 0 has the slot `oldest`; from age `to_wrap` on, slots begin again with 0. */
REALLY_INLINE size_t really_keep_left_of(
    const uint64_t *words, int64_t oldest, int64_t to_wrap, const int64_t *ages, size_t num, int64_t *left,
    size_t most) {
    const size_t first = num < most ? num : most; /* the first `most` ages need no check for room */
    size_t kept = 0, i = 0;
    for (; i < first; i++) kept += really_keep_age(words, oldest, to_wrap, ages[i], left + kept);
    for (; i < num && kept < most; i++) kept += really_keep_age(words, oldest, to_wrap, ages[i], left + kept);
    return kept;
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2,bmi2")
static size_t really_keep_left_avx2(
    const uint64_t *words, int64_t oldest, int64_t to_wrap, const int64_t *ages, size_t num, int64_t *left,
    size_t most) {
    return really_keep_left_of(words, oldest, to_wrap, ages, num, left, most);
}
#endif

static inline size_t really_keep_left(
    const uint64_t *words, int64_t oldest, int64_t to_wrap, const int64_t *ages, size_t num, int64_t *left,
    size_t most) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX2)
        return really_keep_left_avx2(words, oldest, to_wrap, ages, num, left, most);
#endif
    return really_keep_left_of(words, oldest, to_wrap, ages, num, left, most);
}

#endif
