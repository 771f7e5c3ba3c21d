/* Random words of a NumPy bit generator, and integers below a bound from them. SFC64, which every buffer has unless a
   user gives another one, runs in line: a call of NumPy's function takes longer than its few operations. C11, inline
   only: each extension has a variable of its own. */
#ifndef REALLY_RANDOM_WORDS_H
#define REALLY_RANDOM_WORDS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "numpy/random/bitgen.h"

#include "cpu.h"

enum { REALLY_DRAW_BLOCK = 64 }; /* numbers drawn at a time */

/* NumPy's function of SFC64, once it is known that its state begins with the four words below; NULL before. */
static uint64_t (*really_sfc64_function)(void *) REALLY_UNUSED = NULL;

/* SFC64 of Chris Doty-Humphrey (PractRand), as in numpy/random/src/sfc64/sfc64.h. */
REALLY_INLINE uint64_t really_sfc64_next(uint64_t *state) {
    const uint64_t word = state[0] + state[1] + state[3]++;
    state[0] = state[1] ^ (state[1] >> 11);
    state[1] = state[2] + (state[2] << 3);
    state[2] = ((state[2] << 24) | (state[2] >> 40)) + word;
    return word;
}

/* Runs SFC64 in line from now on, if `source` is one, its state begins with `state`, and its next word is that of
   `really_sfc64_next`. Returns whether it is so. */
static inline int really_sfc64_found(bitgen_t *source, const uint64_t *state) {
    uint64_t words[4];
    memcpy(words, state, sizeof words);
    if (memcmp(source->state, words, sizeof words) != 0) return 0;
    if (source->next_uint64(source->state) != really_sfc64_next(words)) return 0;
    if (memcmp(source->state, words, sizeof words) != 0) return 0;
    really_sfc64_function = source->next_uint64;
    return 1;
}

/* The next `num` words. */
static inline void really_next_words(bitgen_t *source, uint64_t *words, size_t num) {
    if (source->next_uint64 == really_sfc64_function) {
        uint64_t *kept = (uint64_t *)source->state, state[4] = {kept[0], kept[1], kept[2], kept[3]};
        for (size_t i = 0; i < num; i++) words[i] = really_sfc64_next(state);
        kept[0] = state[0], kept[1] = state[1], kept[2] = state[2], kept[3] = state[3];
        return;
    }
    for (size_t i = 0; i < num; i++) words[i] = source->next_uint64(source->state);
}

/* The high halves of the products of `bound` and the halves of each word: two numbers a word. Returns whether a low half
   is below the bound. */
static inline int really_scale_words(const uint64_t *words, size_t num_words, uint64_t bound, int64_t *numbers) {
    uint64_t below = 0; /* its highest bit */
    size_t i = 0;
#if defined(REALLY_SSE2)
    if (really_cpu_level > REALLY_CPU_PLAIN) {
        const __m128i bounds = _mm_set1_epi64x((long long)bound), low_half = _mm_set1_epi64x(0xFFFFFFFF);
        __m128i borrowed = _mm_setzero_si128();
        for (; i + 2 <= num_words; i += 2) {
            const __m128i both = _mm_loadu_si128((const __m128i *)(words + i));
            const __m128i first = _mm_mul_epu32(both, bounds), second = _mm_mul_epu32(_mm_srli_epi64(both, 32), bounds);
            borrowed = _mm_or_si128(borrowed, _mm_sub_epi64(_mm_and_si128(first, low_half), bounds));
            borrowed = _mm_or_si128(borrowed, _mm_sub_epi64(_mm_and_si128(second, low_half), bounds));
            const __m128i one = _mm_srli_epi64(first, 32), other = _mm_srli_epi64(second, 32);
            _mm_storeu_si128((__m128i *)(numbers + 2 * i), _mm_unpacklo_epi64(one, other));
            _mm_storeu_si128((__m128i *)(numbers + 2 * i + 2), _mm_unpackhi_epi64(one, other));
        }
        below = (uint64_t)_mm_movemask_pd(_mm_castsi128_pd(borrowed)) << 62;
        below |= below << 1;
    }
#endif
    for (; i < num_words; i++) {
        const uint64_t first = (words[i] & 0xFFFFFFFF) * bound, second = (words[i] >> 32) * bound;
        numbers[2 * i] = (int64_t)(first >> 32);
        numbers[2 * i + 1] = (int64_t)(second >> 32);
        below |= ((first & 0xFFFFFFFF) - bound) | ((second & 0xFFFFFFFF) - bound);
    }
    return (int)(below >> 63);
}

/* Fills `numbers` with at most REALLY_DRAW_BLOCK uniform integers below a bound of 32 bits. Of 2**32 products, the
   2**32 mod bound with the smallest low halves are rejected, so that the others are divided evenly (Lemire 2019,
   arXiv:1805.10941). */
static inline void really_draw_narrow(bitgen_t *source, uint64_t bound, int64_t *numbers, size_t num) {
    uint64_t words[REALLY_DRAW_BLOCK / 2];
    const size_t num_words = (num + 1) / 2;
    int64_t last[2];
    really_next_words(source, words, num_words);
    int below = really_scale_words(words, num / 2, bound, numbers);
    if (num % 2 != 0) {
        below |= really_scale_words(words + num / 2, 1, bound, last);
        numbers[num - 1] = last[0];
    }
    if (!below) return;
    /* Perhaps a low half is below 2**32 mod bound, too, which takes a division. */
    const uint64_t surplus = ((uint64_t)1 << 32) % bound;
    size_t filled = 0;
    for (size_t at = 0; filled < num; at++) {
        const uint64_t word = at < num_words ? words[at] : source->next_uint64(source->state);
        const uint64_t first = (word & 0xFFFFFFFF) * bound, second = (word >> 32) * bound;
        if ((first & 0xFFFFFFFF) >= surplus) numbers[filled++] = (int64_t)(first >> 32);
        if (filled < num && (second & 0xFFFFFFFF) >= surplus) numbers[filled++] = (int64_t)(second >> 32);
    }
}

#endif
