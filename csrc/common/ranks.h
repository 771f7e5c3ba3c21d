/* Finds the slots that have given ranks in a set of bits with counts (row_set.pxd): from the largest groups down to bits.
   A level looks at all ranks before the next one does, and at all parts of a group, since no branch could be foreseen.
   C11, inline only. */
#ifndef REALLY_RANKS_H
#define REALLY_RANKS_H

#include <stddef.h>
#include <stdint.h>

#include "bits.h"
#include "cpu.h"

#define REALLY_FAN 8 /* parts of a group */

/* Of a group with `rank`, finds the part with it: the first one with which the counts sum up to more. What the parts
   before it count is taken off `rank`. */
REALLY_INLINE int64_t really_part_of_rank(const int64_t *counts, int64_t *rank) {
    int64_t sum = 0, before = 0, at = 0;
    for (int i = 0; i < REALLY_FAN - 1; i++) {
        sum += counts[i];
        const int is_passed = sum <= *rank;
        at += is_passed;
        before = is_passed ? sum : before;
    }
    *rank -= before;
    return at;
}

/* Replaces groups by the parts of them with `ranks`. Group g has the parts from g * REALLY_FAN on. */
static inline void really_parts_of_ranks(const int64_t *counts, int64_t *groups, int64_t *ranks, size_t num) {
    for (size_t i = 0; i < num; i++) {
        const int64_t first = groups[i] * REALLY_FAN;
        groups[i] = first + really_part_of_rank(counts + first, ranks + i);
    }
}

/* Replaces `ranks` in groups of words by slots. */
REALLY_INLINE void really_bits_of_ranks_of(
    const uint64_t *words, int64_t *groups, int64_t *ranks, size_t num, int (*count)(uint64_t),
    int (*select)(uint64_t, int)) {
    for (size_t i = 0; i < num; i++) {
        const int64_t first = groups[i] * REALLY_FAN;
        int64_t counts[REALLY_FAN - 1];
        for (int j = 0; j < REALLY_FAN - 1; j++) counts[j] = count(words[first + j]);
        groups[i] = first + really_part_of_rank(counts, ranks + i);
    }
    for (size_t i = 0; i < num; i++) ranks[i] = groups[i] * 64 + select(words[groups[i]], (int)ranks[i]);
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2,bmi,bmi2,popcnt")
static inline int really_count_bits_avx2(uint64_t word) { return (int)_mm_popcnt_u64(word); }

REALLY_TARGET("avx2,bmi,bmi2,popcnt")
static inline int really_select_bit_avx2(uint64_t word, int rank) {
    return (int)_tzcnt_u64(_pdep_u64(UINT64_C(1) << rank, word));
}

REALLY_TARGET("avx2,bmi,bmi2,popcnt")
static void really_bits_of_ranks_avx2(const uint64_t *words, int64_t *groups, int64_t *ranks, size_t num) {
    really_bits_of_ranks_of(words, groups, ranks, num, really_count_bits_avx2, really_select_bit_avx2);
}
#endif

static inline void really_bits_of_ranks(const uint64_t *words, int64_t *groups, int64_t *ranks, size_t num) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX2) {
        really_bits_of_ranks_avx2(words, groups, ranks, num);
        return;
    }
#endif
    really_bits_of_ranks_of(words, groups, ranks, num, really_count_bits, really_select_bit);
}

#endif
