/* Bits of a word, counted and chosen without a table, a call or a branch: compilers call a function for
   __builtin_popcountll unless the build requires the instruction. Vigna 2008, Broadword implementation of rank/select
   queries. */
#ifndef REALLY_BITS_H
#define REALLY_BITS_H

#include <stdint.h>

#define REALLY_EACH_BYTE UINT64_C(0x0101010101010101)

/* In byte i, how many bits are set in bytes 0 to i. */
static inline uint64_t really_counts_to_byte(uint64_t word) {
    uint64_t sums = word - ((word >> 1) & UINT64_C(0x5555555555555555));
    sums = (sums & UINT64_C(0x3333333333333333)) + ((sums >> 2) & UINT64_C(0x3333333333333333));
    return ((sums + (sums >> 4)) & (0x0f * REALLY_EACH_BYTE)) * REALLY_EACH_BYTE;
}

static inline int really_count_bits(uint64_t word) {
    return (int)(really_counts_to_byte(word) >> 56);
}

/* The place of the set bit with `rank` set bits below it, 0 <= rank < really_count_bits(word). */
static inline int really_select_bit(uint64_t word, int rank) {
    const uint64_t counts = really_counts_to_byte(word), high = 0x80 * REALLY_EACH_BYTE;
    const uint64_t are_below = (((uint64_t)rank * REALLY_EACH_BYTE | high) - counts) & high; /* bytes with counts <= rank */
    const int first = (int)(((are_below >> 7) * REALLY_EACH_BYTE) >> 56) * 8;
    int bits = (int)((word >> first) & 0xff), left = rank - (int)(((counts << 8) >> first) & 0xff), at = first;
    for (int i = 0; i < 7; i++) { /* until the bit looked for is the lowest one */
        const int passes = left > 0 || !(bits & 1);
        left -= passes & bits & 1;
        bits >>= passes;
        at += passes;
    }
    return at;
}

#endif
