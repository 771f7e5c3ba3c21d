/* What the kernels know of the processor: the level of its instructions and the size of its cache, found once when the
   extension is imported. A level has the instructions of those before it. C11, inline only: each extension has
   variables of its own, and `_ring` alone has kernels that ask for them. */
#ifndef REALLY_CPU_H
#define REALLY_CPU_H

#include <stddef.h>

#if !defined(_WIN32)
#include <unistd.h>
#endif
#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#define REALLY_SSE2 1
enum { REALLY_CPU_PLAIN, REALLY_CPU_SSE2, REALLY_CPU_AVX2, REALLY_CPU_AVX512 };
#define REALLY_CPU_NAMES {"plain", "sse2", "avx2", "avx512"}
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#define REALLY_NEON 1
enum { REALLY_CPU_PLAIN, REALLY_CPU_NEON };
#define REALLY_CPU_NAMES {"plain", "neon"}
#else
enum { REALLY_CPU_PLAIN };
#define REALLY_CPU_NAMES {"plain"}
#endif

/* Functions for processors with more instructions than the build requires. */
#if defined(__x86_64__) && defined(__GNUC__)
#define REALLY_TARGET(features) __attribute__((target(features)))
#define REALLY_DISPATCH 1
#endif

#if defined(__GNUC__)
#define REALLY_INLINE static inline __attribute__((always_inline))
#define REALLY_UNUSED __attribute__((unused))
#else
#define REALLY_INLINE static inline
#define REALLY_UNUSED
#endif

static int really_cpu_level REALLY_UNUSED = REALLY_CPU_PLAIN;

/* Bytes of the second-level cache of a core. Thresholds are multiples of it: on a processor with 1 MB, rows in the third
   level are written faster through the cache up to 4 MB, and past it from 6 MB on. */
static size_t really_cache_nbytes REALLY_UNUSED = (size_t)1 << 20;

/* The name of a level, or NULL if this build has no such level. */
static inline const char *really_cpu_name(int level) {
    static const char *const names[] = REALLY_CPU_NAMES;
    return level >= 0 && level < (int)(sizeof names / sizeof *names) ? names[level] : NULL;
}

/* The highest level that build and processor have. AVX-512 is what every server has of it: F and BW. The level AVX2
   needs BMI, BMI2 and POPCNT, too (left_rows.h, ranks.h). */
static inline int really_cpu_best(void) {
#if defined(REALLY_DISPATCH)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
        __builtin_cpu_supports("popcnt"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? REALLY_CPU_AVX512
                                                                                       : REALLY_CPU_AVX2;
#endif
#if defined(REALLY_SSE2)
    return REALLY_CPU_SSE2;
#elif defined(REALLY_NEON)
    return REALLY_CPU_NEON;
#else
    return REALLY_CPU_PLAIN;
#endif
}

/* Bytes of the second-level cache as the system tells them, from 256 kB to 4 MB; 1 MB if it tells none. */
static inline size_t really_cache_found(void) {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long nbytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (nbytes > 0) return nbytes < 1 << 18 ? 1 << 18 : nbytes > 1 << 22 ? 1 << 22 : (size_t)nbytes;
#endif
    return (size_t)1 << 20;
}

/* Makes the kernels use this level, and this size of the cache. */
static inline void really_cpu_use(int level, size_t cache_nbytes) {
    really_cpu_level = level;
    really_cache_nbytes = cache_nbytes;
}

#endif
