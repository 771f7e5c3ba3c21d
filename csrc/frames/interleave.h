/* Interleaves, de-interleaves and compares stacks of four one-byte frames along the last axis. The four bytes of a
   pixel are a 32-bit word with the oldest frame in the lowest byte. The stack after it has the word shifted by one
   byte, with the new frame in the highest byte. */
#ifndef REALLY_INTERLEAVE_H
#define REALLY_INTERLEAVE_H

#include "../common/memory.h"

enum { REALLY_COMPARE_PIXELS = 256 }; /* pixels compared before the next test for a difference */
enum { REALLY_COMPARE_PIXELS_AHEAD = 512 }; /* pixels between the one compared and the one prefetched */
enum { REALLY_INTERLEAVE_AHEAD = 512 }; /* pixels by which each frame is prefetched ahead */

/* Whether a batch of so many interleaved bytes is written past the cache. Without AVX-512 rows are written faster to
   the third level as long as they fit there: up to some 32 second-level caches. */
static inline int really_interleave_streams(size_t nbytes) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX512) return nbytes >= 8 * really_cache_nbytes;
#endif
    return nbytes >= 32 * really_cache_nbytes;
}

/* The next three write pixels of a row from `at` on, in whole groups; they return the pixel after the last. */
#if defined(REALLY_SSE2)
static inline size_t really_interleave_128(char *row, const char *const *frames, size_t at, size_t num) {
    for (; at + 16 <= num; at += 16) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(frames[0] + at));
        const __m128i b = _mm_loadu_si128((const __m128i *)(frames[1] + at));
        const __m128i c = _mm_loadu_si128((const __m128i *)(frames[2] + at));
        const __m128i d = _mm_loadu_si128((const __m128i *)(frames[3] + at));
        const __m128i ab_low = _mm_unpacklo_epi8(a, b), cd_low = _mm_unpacklo_epi8(c, d);
        const __m128i ab_high = _mm_unpackhi_epi8(a, b), cd_high = _mm_unpackhi_epi8(c, d);
        __m128i *to = (__m128i *)(row + 4 * at);
        _mm_storeu_si128(to, _mm_unpacklo_epi16(ab_low, cd_low));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(ab_low, cd_low));
        _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(ab_high, cd_high));
        _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(ab_high, cd_high));
    }
    return at;
}
#endif

#if defined(REALLY_NEON)
static inline size_t really_interleave_neon(char *row, const char *const *frames, size_t at, size_t num) {
    for (; at + 16 <= num; at += 16) {
        uint8x16x4_t pixels;
        for (int j = 0; j < 4; j++) pixels.val[j] = vld1q_u8((const uint8_t *)(frames[j] + at));
        vst4q_u8((uint8_t *)(row + 4 * at), pixels);
    }
    return at;
}
#endif

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2") REALLY_INLINE void really_store_8_pixels(char *to, __m256i words, int streams) {
    if (streams) _mm256_stream_si256((__m256i *)to, words);
    else _mm256_storeu_si256((__m256i *)to, words);
}

/* Unpacking works in each half of a register, so that pixels 0 to 15 are in the lower halves of the words. */
REALLY_TARGET("avx2")
static size_t really_interleave_256(char *row, const char *const *frames, size_t num, int streams) {
    size_t at = 0;
    for (; at + 32 <= num; at += 32) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(frames[0] + at));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(frames[1] + at));
        const __m256i c = _mm256_loadu_si256((const __m256i *)(frames[2] + at));
        const __m256i d = _mm256_loadu_si256((const __m256i *)(frames[3] + at));
        const __m256i ab_low = _mm256_unpacklo_epi8(a, b), cd_low = _mm256_unpacklo_epi8(c, d);
        const __m256i ab_high = _mm256_unpackhi_epi8(a, b), cd_high = _mm256_unpackhi_epi8(c, d);
        const __m256i one = _mm256_unpacklo_epi16(ab_low, cd_low), two = _mm256_unpackhi_epi16(ab_low, cd_low);
        const __m256i three = _mm256_unpacklo_epi16(ab_high, cd_high), four = _mm256_unpackhi_epi16(ab_high, cd_high);
        for (int j = 0; j < 4; j++) really_prefetch_l2(frames[j] + at + REALLY_INTERLEAVE_AHEAD);
        really_store_8_pixels(row + 4 * at, _mm256_permute2x128_si256(one, two, 0x20), streams);
        really_store_8_pixels(row + 4 * at + 32, _mm256_permute2x128_si256(three, four, 0x20), streams);
        really_store_8_pixels(row + 4 * at + 64, _mm256_permute2x128_si256(one, two, 0x31), streams);
        really_store_8_pixels(row + 4 * at + 96, _mm256_permute2x128_si256(three, four, 0x31), streams);
    }
    return at;
}
#endif

/* Writes pixels `at` to `num` of a row. */
static inline void really_interleave_tail(char *row, const char *const *frames, size_t at, size_t num) {
#if defined(REALLY_SSE2)
    if (really_cpu_level >= REALLY_CPU_SSE2) at = really_interleave_128(row, frames, at, num);
#elif defined(REALLY_NEON)
    if (really_cpu_level >= REALLY_CPU_NEON) at = really_interleave_neon(row, frames, at, num);
#endif
    for (; at < num; at++)
        for (int j = 0; j < 4; j++) row[4 * at + j] = frames[j][at];
}

/* Writes a row from frames 0 to 3 without AVX-512. */
static inline void really_interleave_row(char *row, const char *const *frames, size_t num, int streams) {
    size_t at = 0;
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX2)
        at = really_interleave_256(row, frames, num, streams && (uintptr_t)row % 32 == 0);
#endif
    (void)streams;
    really_interleave_tail(row, frames, at, num);
}

#if defined(REALLY_DISPATCH)
/* 64 pixels, their groups of four permuted so that unpacking lane by lane restores the order. */
REALLY_TARGET("avx512f,avx512bw") REALLY_INLINE __m512i really_load_64_pixels(const char *frame) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    really_prefetch_l2(frame + REALLY_INTERLEAVE_AHEAD);
    return _mm512_permutexvar_epi32(order, _mm512_loadu_si512(frame));
}

REALLY_TARGET("avx512f,avx512bw") REALLY_INLINE void really_store_16_pixels(char *to, __m512i words, int streams) {
    if (streams) _mm512_stream_si512((__m512i *)to, words);
    else _mm512_storeu_si512(to, words);
}

/* Writes 64 pixels from `at` on to `row`, of frames 0 to 3, and to `after`, of frames 1 to 4, unless it is NULL. */
REALLY_TARGET("avx512f,avx512bw")
REALLY_INLINE void really_interleave_64(char *row, char *after, const char *const *frames, size_t at, int streams) {
    const __m512i top = _mm512_set4_epi32(0x03ffffff, 0x02ffffff, 0x01ffffff, 0x00ffffff);
    const __m512i a = really_load_64_pixels(frames[0] + at), b = really_load_64_pixels(frames[1] + at);
    const __m512i c = really_load_64_pixels(frames[2] + at), d = really_load_64_pixels(frames[3] + at);
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b), cd_low = _mm512_unpacklo_epi8(c, d);
    const __m512i ab_high = _mm512_unpackhi_epi8(a, b), cd_high = _mm512_unpackhi_epi8(c, d);
    const __m512i words[4] = {
        _mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
        _mm512_unpacklo_epi16(ab_high, cd_high), _mm512_unpackhi_epi16(ab_high, cd_high),
    };
    for (int k = 0; k < 4; k++) really_store_16_pixels(row + 4 * at + 64 * k, words[k], streams);
    if (after == NULL) return;
    const __m512i e = really_load_64_pixels(frames[4] + at);
    for (int k = 0; k < 4; k++) {
        const __m512i place = _mm512_add_epi8(top, _mm512_set1_epi32(0x04000000 * k));
        const __m512i shifted = _mm512_srli_epi32(words[k], 8);
        const __m512i next = _mm512_mask_shuffle_epi8(shifted, 0x8888888888888888, e, place);
        really_store_16_pixels(after + 4 * at + 64 * k, next, streams);
    }
}

/* Writes both rows of one or two stacks, in whole groups of 64 pixels; two stacks are read in parallel. Returns the
   pixels written of each row. */
REALLY_TARGET("avx512f,avx512bw")
REALLY_INLINE size_t really_interleave_512_loop(
    char *row, char *after, const char *const *frames, int num_stacks, size_t num, int streams
) {
    size_t at = 0;
    for (; at + 64 <= num; at += 64) {
        really_interleave_64(row, after, frames, at, streams);
        if (num_stacks == 2) really_interleave_64(row + 4 * num, after + 4 * num, frames + 5, at, streams);
    }
    return at;
}

REALLY_TARGET("avx512f,avx512bw")
static size_t really_interleave_512(
    char *row, char *after, const char *const *frames, int num_stacks, size_t num, int streams
) {
    if (((uintptr_t)row | (uintptr_t)after | (num_stacks == 2 ? 4 * num : 0)) % REALLY_CACHE_LINE != 0) streams = 0;
    if (after == NULL)
        return streams ? really_interleave_512_loop(row, NULL, frames, 1, num, 1)
                       : really_interleave_512_loop(row, NULL, frames, 1, num, 0);
    if (num_stacks == 1) return really_interleave_512_loop(row, after, frames, 1, num, streams);
    return streams ? really_interleave_512_loop(row, after, frames, 2, num, 1)
                   : really_interleave_512_loop(row, after, frames, 2, num, 0);
}
#endif

/* Writes `row` from frames 0 to 3, `num` pixels each, and `after` from frames 1 to 4 unless it is NULL. With
   `num_stacks` 2 (then `after` is not NULL) frames 5 to 9 give the rows behind them. With `streams` the stores go
   past the cache; call really_stream_fence() afterwards. */
static inline void really_interleave4(
    char *row, char *after, const char *const *frames, int num_stacks, size_t num, int streams
) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX512) {
        const size_t at = really_interleave_512(row, after, frames, num_stacks, num, streams);
        for (int k = 0; k < num_stacks; k++) {
            really_interleave_tail(row + 4 * k * num, frames + 5 * k, at, num);
            if (after != NULL) really_interleave_tail(after + 4 * k * num, frames + 5 * k + 1, at, num);
        }
        return;
    }
#endif
    for (int k = 0; k < num_stacks; k++) {
        really_interleave_row(row + 4 * k * num, frames + 5 * k, num, streams);
        if (after != NULL) really_interleave_row(after + 4 * k * num, frames + 5 * k + 1, num, streams);
    }
}

/* The next two split the first pixels of a row, in whole groups; they return the pixel after the last. */
#if defined(REALLY_SSE2)
static inline size_t really_deinterleave_128(char *frames, const char *row, size_t num) {
    const __m128i low = _mm_set1_epi32(0xff);
    size_t at = 0;
    for (; at + 16 <= num; at += 16)
        for (int j = 0; j < 4; j++) {
            const __m128i *source = (const __m128i *)(row + 4 * at);
            const __m128i shift = _mm_cvtsi32_si128(8 * j);
            const __m128i a = _mm_and_si128(_mm_srl_epi32(_mm_loadu_si128(source), shift), low);
            const __m128i b = _mm_and_si128(_mm_srl_epi32(_mm_loadu_si128(source + 1), shift), low);
            const __m128i c = _mm_and_si128(_mm_srl_epi32(_mm_loadu_si128(source + 2), shift), low);
            const __m128i d = _mm_and_si128(_mm_srl_epi32(_mm_loadu_si128(source + 3), shift), low);
            const __m128i packed = _mm_packus_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d));
            _mm_storeu_si128((__m128i *)(frames + j * num + at), packed);
        }
    return at;
}
#endif

#if defined(REALLY_NEON)
static inline size_t really_deinterleave_neon(char *frames, const char *row, size_t num) {
    size_t at = 0;
    for (; at + 16 <= num; at += 16) {
        const uint8x16x4_t pixels = vld4q_u8((const uint8_t *)(row + 4 * at));
        for (int j = 0; j < 4; j++) vst1q_u8((uint8_t *)(frames + j * num + at), pixels.val[j]);
    }
    return at;
}
#endif

/* Splits a row into its frames: frame j goes to frames[j * num]. */
static inline void really_deinterleave4(char *frames, const char *row, size_t num) {
    size_t at = 0;
#if defined(REALLY_SSE2)
    if (really_cpu_level >= REALLY_CPU_SSE2) at = really_deinterleave_128(frames, row, num);
#elif defined(REALLY_NEON)
    if (really_cpu_level >= REALLY_CPU_NEON) at = really_deinterleave_neon(frames, row, num);
#endif
    for (; at < num; at++)
        for (int j = 0; j < 4; j++) frames[j * num + at] = row[4 * at + j];
}

enum { REALLY_UNRELATED = 0, REALLY_SHIFTED = 1, REALLY_REPEATED = 2 };

REALLY_INLINE uint32_t really_load_pixel(const char *row, size_t at) {
    uint32_t word;
    memcpy(&word, row + 4 * at, 4);
    return word;
}

REALLY_INLINE void really_prefetch_pixels(const char *row, size_t first, size_t num) {
    for (size_t at = first; at < first + REALLY_COMPARE_PIXELS && at < num; at += REALLY_CACHE_LINE / 4)
        really_prefetch_l1(row + 4 * at);
}

/* A loop over words, which the compiler vectorises. */
REALLY_INLINE int really_compare_pixels(
    const char *before, const char *row, const char *after, char *restrict newest, size_t num
) {
    uint32_t differs = 0, moves = 0;
    for (size_t first = 0; first < num && differs == 0; first += REALLY_COMPARE_PIXELS) {
        const size_t end = num - first < REALLY_COMPARE_PIXELS ? num : first + REALLY_COMPARE_PIXELS;
        really_prefetch_pixels(row, first + REALLY_COMPARE_PIXELS_AHEAD, num);
        really_prefetch_pixels(after, first + REALLY_COMPARE_PIXELS_AHEAD, num);
        for (size_t at = first; at < end; at++) {
            const uint32_t word = really_load_pixel(row, at), next = really_load_pixel(after, at);
            differs |= (word ^ really_load_pixel(before, at)) | ((word >> 8) ^ (next & 0xffffff));
            moves |= (word ^ next) >> 24;
            newest[at] = (char)(next >> 24);
        }
    }
    return differs != 0 ? REALLY_UNRELATED : moves != 0 ? REALLY_SHIFTED : REALLY_REPEATED;
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2")
static int really_compare_avx2(const char *before, const char *row, const char *after, char *newest, size_t num) {
    return really_compare_pixels(before, row, after, newest, num);
}

/* One cache line of each row at a time. */
REALLY_TARGET("avx512f,avx512bw")
static int really_compare_512(const char *before, const char *row, const char *after, char *newest, size_t num) {
    const __m512i lasts = _mm512_set1_epi32((int)0xffffff00);
    __m512i differs = _mm512_setzero_si512(), differs_on = differs, moves = differs;
    size_t at = 0;
    while (at + 16 <= num) {
        const size_t end = num - at < REALLY_COMPARE_PIXELS ? num - num % 16 : at + REALLY_COMPARE_PIXELS;
        for (; at < end; at += 16) {
            really_prefetch_l1(row + 4 * (at + REALLY_COMPARE_PIXELS_AHEAD));
            really_prefetch_l1(after + 4 * (at + REALLY_COMPARE_PIXELS_AHEAD));
            const __m512i words = _mm512_loadu_si512(row + 4 * at), next = _mm512_loadu_si512(after + 4 * at);
            differs = _mm512_or_si512(differs, _mm512_xor_si512(words, _mm512_loadu_si512(before + 4 * at)));
            differs_on = _mm512_or_si512(differs_on, _mm512_xor_si512(words, _mm512_slli_epi32(next, 8)));
            moves = _mm512_or_si512(moves, _mm512_xor_si512(words, next));
            _mm_storeu_si128((__m128i *)(newest + at), _mm512_cvtepi32_epi8(_mm512_srli_epi32(next, 24)));
        }
        if (_mm512_test_epi32_mask(differs, differs) | _mm512_test_epi32_mask(differs_on, lasts))
            return REALLY_UNRELATED;
    }
    const int rest = really_compare_pixels(before + 4 * at, row + 4 * at, after + 4 * at, newest + at, num - at);
    if (rest != REALLY_REPEATED) return rest;
    return _mm512_test_epi32_mask(moves, _mm512_set1_epi32((int)0xff000000)) ? REALLY_SHIFTED : REALLY_REPEATED;
}
#endif

/* Compares three rows. Returns REALLY_UNRELATED unless `row` equals `before` and `after` is `row` shifted by one
   frame. Then returns REALLY_REPEATED if the newest frame of `after` equals that of `row`, else REALLY_SHIFTED, and
   `newest`, [num] bytes, has that frame; otherwise it may have a part of it. */
static inline int really_compare4(const char *before, const char *row, const char *after, char *newest, size_t num) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    (void)before, (void)row, (void)after, (void)newest, (void)num;
    return REALLY_UNRELATED;
#else
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX512) return really_compare_512(before, row, after, newest, num);
    if (really_cpu_level >= REALLY_CPU_AVX2) return really_compare_avx2(before, row, after, newest, num);
#endif
    return really_compare_pixels(before, row, after, newest, num);
#endif
}

#endif
