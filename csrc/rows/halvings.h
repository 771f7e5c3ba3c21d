/* Draws ages by half-life: a row is half as likely as one that was put a half-life later. How many halvings lead from 1
   to 1 - part is -log2(1 - part): the libraries of C differ in its last bit; this is the same on all systems and at all
   levels. Loops of one kind of step each, since only then compilers vectorise them. */
#ifndef REALLY_HALVINGS_H
#define REALLY_HALVINGS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../common/cpu.h"

#define REALLY_ROOT_OF_HALF_BITS UINT64_C(0x3fe6a09e667f3bcd) /* of the double sqrt(0.5) */
#define REALLY_ONE_BITS UINT64_C(0x3ff0000000000000)          /* of the double 1.0 */
#define REALLY_WHOLE 4503599627370496.0                       /* 2^52; from it on, doubles are integers */
#define REALLY_WHOLE_BITS UINT64_C(0x4330000000000000)        /* of it; the lower bits are an integer that is added */

enum { REALLY_HALVINGS = 64 }; /* numbers at most */

/* Gives the halvings of parts share * u of uniform numbers u, the upper 52 of 64 random bits; share <= 1. The error is
   below 2^-44 of them, or 2^-52 if that is more.

   1 - part is 2^-k m with m from sqrt(0.5) to sqrt(2), and log2(m) is a series in s = (m - 1) / (m + 1), of which eight
   terms are left. */
REALLY_INLINE void really_halvings(const uint64_t *bits, double share, double *halvings, size_t num) {
    double left[REALLY_HALVINGS], less[REALLY_HALVINGS];
    for (size_t i = 0; i < num; i++) {
        const uint64_t word = (bits[i] >> 12) | REALLY_ONE_BITS;
        double above; /* 1 + u */
        memcpy(&above, &word, sizeof above);
        left[i] = 1.0 - (above - 1.0) * share;
    }
    for (size_t i = 0; i < num; i++) {
        uint64_t word, k;
        double m;
        memcpy(&word, &left[i], sizeof word);
        k = (REALLY_ROOT_OF_HALF_BITS + (UINT64_C(1) << 52) - 1 - word) >> 52;
        word += k << 52;
        memcpy(&m, &word, sizeof m);
        less[i] = 1.0 - m;
        k |= REALLY_WHOLE_BITS; /* of the double 2^52 + k */
        memcpy(&halvings[i], &k, sizeof k);
    }
    for (size_t i = 0; i < num; i++) {
        const double s = less[i] / (2.0 - less[i]), w = s * s;
        const double rest = 0.2623081892525388 + w * (0.2219530832136867 + w * 0.19235933878519512);
        const double tail = 0.5770780163555854 + w * (0.4121985831111324 + w * (0.3205988979753252 + w * rest));
        halvings[i] = (halvings[i] - REALLY_WHOLE) + s * (2.8853900817779268 + w * (0.9617966939259756 + w * tail));
    }
}

/* Gives ages held - 1 - floor(half_life * halvings), but at least 0, of held < 2^52 rows. Adding 2^52 rounds to an
   integer, which is in the low bits. If it rounded up, `past` is negative, and 1 is subtracted. */
REALLY_INLINE void really_ages_of_block(
    const uint64_t *bits, double share, double half_life, int64_t held, int64_t *ages, size_t num) {
    const double newest = (double)(held - 1);
    double halvings[REALLY_HALVINGS], rounded[REALLY_HALVINGS], past[REALLY_HALVINGS];
    really_halvings(bits, share, halvings, num);
    for (size_t i = 0; i < num; i++) {
        const double exact = half_life * halvings[i], rows = exact < newest ? exact : newest;
        rounded[i] = rows + REALLY_WHOLE;
        past[i] = rows - (rounded[i] - REALLY_WHOLE);
    }
    for (size_t i = 0; i < num; i++) {
        uint64_t word, sign;
        memcpy(&word, &rounded[i], sizeof word);
        memcpy(&sign, &past[i], sizeof sign);
        ages[i] = held - 1 - (int64_t)((word ^ REALLY_WHOLE_BITS) - (sign >> 63));
    }
}

/* The same. The loops of a whole block have a constant length, so that compilers emit no loops for a remainder. */
REALLY_INLINE void really_half_life_ages_of(
    const uint64_t *bits, double share, double half_life, int64_t held, int64_t *ages, size_t num) {
    if (num == REALLY_HALVINGS) really_ages_of_block(bits, share, half_life, held, ages, REALLY_HALVINGS);
    else really_ages_of_block(bits, share, half_life, held, ages, num);
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2")
static void really_half_life_ages_avx2(
    const uint64_t *bits, double share, double half_life, int64_t held, int64_t *ages, size_t num) {
    really_half_life_ages_of(bits, share, half_life, held, ages, num);
}

REALLY_TARGET("avx512f,avx512bw")
static void really_half_life_ages_avx512(
    const uint64_t *bits, double share, double half_life, int64_t held, int64_t *ages, size_t num) {
    really_half_life_ages_of(bits, share, half_life, held, ages, num);
}
#endif

/* Draws at most REALLY_HALVINGS ages of rows, from 0 to held - 1, the age of the newest row. */
static inline void really_half_life_ages(
    const uint64_t *bits, double share, double half_life, int64_t held, int64_t *ages, size_t num) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX512) {
        really_half_life_ages_avx512(bits, share, half_life, held, ages, num);
        return;
    }
    if (really_cpu_level >= REALLY_CPU_AVX2) {
        really_half_life_ages_avx2(bits, share, half_life, held, ages, num);
        return;
    }
#endif
    really_half_life_ages_of(bits, share, half_life, held, ages, num);
}

#endif
