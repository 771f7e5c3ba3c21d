/* How many halvings lead from 1 to 1 - part: -log2(1 - part). The libraries of C differ in its last bit; this is the
   same on all systems and at all levels. Loops of one kind of step each, since only then compilers vectorise them. */
#ifndef REALLY_HALVINGS_H
#define REALLY_HALVINGS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../common/cpu.h"

#define REALLY_ROOT_OF_HALF_BITS UINT64_C(0x3fe6a09e667f3bcd) /* of the double sqrt(0.5) */
#define REALLY_ONE_BITS UINT64_C(0x3ff0000000000000)          /* of the double 1.0 */

enum { REALLY_HALVINGS = 64 }; /* numbers at most */

/* 1 - part is 2^k m with m from sqrt(0.5) to sqrt(2), and log2(m) is a series in s = (m - 1) / (m + 1), of which eight
   terms are left. */
REALLY_INLINE void really_halvings_of(const uint64_t *bits, double share, double *halvings, size_t num) {
    double left[REALLY_HALVINGS], less[REALLY_HALVINGS];
    for (size_t i = 0; i < num; i++) {
        const uint64_t word = (bits[i] >> 12) | REALLY_ONE_BITS;
        double above; /* 1 + u */
        memcpy(&above, &word, sizeof above);
        left[i] = 1.0 - (above - 1.0) * share;
    }
    for (size_t i = 0; i < num; i++) {
        uint64_t word;
        double m;
        memcpy(&word, &left[i], sizeof word);
        const int32_t k = (int32_t)((word - REALLY_ROOT_OF_HALF_BITS) >> 32) >> 20;
        word -= (uint64_t)(int64_t)k << 52;
        memcpy(&m, &word, sizeof m);
        less[i] = 1.0 - m;
        halvings[i] = -k;
    }
    for (size_t i = 0; i < num; i++) {
        const double s = less[i] / (2.0 - less[i]), w = s * s;
        const double rest = 0.2623081892525388 + w * (0.2219530832136867 + w * 0.19235933878519512);
        const double tail = 0.5770780163555854 + w * (0.4121985831111324 + w * (0.3205988979753252 + w * rest));
        halvings[i] += s * (2.8853900817779268 + w * (0.9617966939259756 + w * tail));
    }
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2")
static void really_halvings_avx2(const uint64_t *bits, double share, double *halvings, size_t num) {
    really_halvings_of(bits, share, halvings, num);
}
#endif

/* Gives the halvings of `num` parts share * u of uniform numbers u, the upper 52 of 64 random bits; share <= 1. The error
   is below 2^-44 of them, or 2^-52 if that is more. */
static inline void really_halvings(const uint64_t *bits, double share, double *halvings, size_t num) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX2) {
        really_halvings_avx2(bits, share, halvings, num);
        return;
    }
#endif
    really_halvings_of(bits, share, halvings, num);
}

#endif
