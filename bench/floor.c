/* The floor of the benchmarks: the rate that plain C reaches on this machine with nothing but the copies.

   Gather: copies records, picked by index, to columns in reused memory, and prefetches the next rows. The best gather
   prefetches into the second-level cache and copies long rows eight at a time, one line of each in turn.
   Scatter: assembles columns to records in the first-level cache and streams them out by whole cache lines.
   Frames: a row is the first four and the last four of five adjacent frames; eight rows at a time, one column at a time.
   Read: reads every byte of two columns, the least that a put has to do to find shared frames.
   The sizes of the three workloads are constants, so that the compiler can optimise each copy. The clock runs here,
   around many batches, so that it includes no call from Python. Build: cc -O3 -shared -fPIC floor.c -o floor */
#define _GNU_SOURCE
#include <emmintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define INLINE static inline __attribute__((always_inline))
/* With AVX-512 a line that is not streamed is one load and one store. */
#define WITH_AVX512 __attribute__((target_clones("avx512f", "default")))
enum { LINE = 64, MAX_FIELDS = 5, STAGE = 8192, BIG = 512, OUT_OF_CACHE = 1 << 25, FRAME = 84 * 84, STACK = 4 * FRAME };
/* Best gather: short rows to prefetch, long rows to copy at a time, bytes of these to prefetch, and the size from which
   a batch bypasses the cache. */
enum { AHEAD = 64, SIDE_BY_SIDE = 8, START = 256, PAST_THE_CACHE = 1 << 23 };

typedef struct {
    size_t num_fields, nbytes[MAX_FIELDS], offset[MAX_FIELDS], stride;
} Workload;

static const Workload CARTPOLE = {5, {16, 8, 4, 16, 4}, {0, 16, 24, 28, 44}, 64};
static const Workload WIDE = {5, {1504, 68, 4, 1504, 4}, {0, 1504, 1572, 1600, 3104}, 3136};
static const Workload ATARI = {2, {28224, 28224}, {0, 28224}, 56448};

INLINE void prefetch_near(const char *row, size_t nbytes) {
    for (size_t at = 0; at < nbytes; at += LINE) _mm_prefetch(row + at, _MM_HINT_T0);
}

/* Into the second-level cache, which can have many more lines in flight than the first. */
INLINE void prefetch_row(const char *row, size_t nbytes) {
    for (size_t at = 0; at < nbytes; at += LINE) _mm_prefetch(row + at, _MM_HINT_T1);
}

INLINE void stream_line(char *to, const char *from) {
    const __m128i a = _mm_loadu_si128((const __m128i *)from);
    const __m128i b = _mm_loadu_si128((const __m128i *)(from + 16));
    const __m128i c = _mm_loadu_si128((const __m128i *)(from + 32));
    const __m128i d = _mm_loadu_si128((const __m128i *)(from + 48));
    _mm_stream_si128((__m128i *)to, a);
    _mm_stream_si128((__m128i *)(to + 16), b);
    _mm_stream_si128((__m128i *)(to + 32), c);
    _mm_stream_si128((__m128i *)(to + 48), d);
}

/* Bypasses the cache from the first whole line on; prefetches the source by `ahead` bytes. */
INLINE void stream(char *to, const char *from, size_t nbytes, size_t ahead) {
    size_t at = -(uintptr_t)to % LINE;
    at = at < nbytes ? at : nbytes;
    memcpy(to, from, at);
    for (; at + LINE <= nbytes; at += LINE) {
        if (ahead) _mm_prefetch(from + at + ahead, _MM_HINT_T0);
        stream_line(to + at, from + at);
    }
    memcpy(to + at, from + at, nbytes - at);
}

/* Eight rows, one line of each in turn: more reads are in flight than with one row. */
INLINE void copy_side_by_side(char *to, const char *const *rows, size_t offset, size_t nbytes, int streams) {
    const size_t whole = nbytes / LINE * LINE;
    for (size_t at = 0; at < whole; at += LINE)
#pragma GCC unroll 8
        for (size_t i = 0; i < SIDE_BY_SIDE; i++) {
            _mm_prefetch(rows[i] + offset + at + START, _MM_HINT_T1);
            if (streams)
                stream_line(to + i * nbytes + at, rows[i] + offset + at);
            else
                memcpy(to + i * nbytes + at, rows[i] + offset + at, LINE);
        }
    for (size_t i = 0; i < SIDE_BY_SIDE; i++)
        memcpy(to + i * nbytes + whole, rows[i] + offset + whole, nbytes - whole);
}

INLINE void gather_long(const Workload w, const char *rows, const int64_t *picks, size_t num, char *const *columns) {
    const int streams = num * w.stride >= PAST_THE_CACHE;
    for (size_t i = 0; i < num && i < SIDE_BY_SIDE; i++) prefetch_row(rows + picks[i] * w.stride, START);
    for (size_t first = 0; first < num; first += SIDE_BY_SIDE) {
        const char *row[SIDE_BY_SIDE];
        const size_t count = num - first < SIDE_BY_SIDE ? num - first : SIDE_BY_SIDE;
        for (size_t i = 0; i < count; i++) row[i] = rows + picks[first + i] * w.stride;
        for (size_t i = first + SIDE_BY_SIDE; i < num && i < first + 2 * SIDE_BY_SIDE; i++)
            prefetch_row(rows + picks[i] * w.stride, START);
#pragma GCC unroll 8
        for (size_t k = 0; k < w.num_fields; k++) {
            char *to = columns[k] + first * w.nbytes[k];
            if (count == SIDE_BY_SIDE && w.nbytes[k] >= BIG)
                copy_side_by_side(to, row, w.offset[k], w.nbytes[k], streams && w.nbytes[k] % LINE == 0);
            else
                for (size_t i = 0; i < count; i++) memcpy(to + i * w.nbytes[k], row[i] + w.offset[k], w.nbytes[k]);
        }
    }
    _mm_sfence();
}

INLINE void gather_short(const Workload w, const char *rows, const int64_t *picks, size_t num, char *const *columns) {
    for (size_t i = 0; i < num && i < AHEAD; i++) prefetch_row(rows + picks[i] * w.stride, w.stride);
    for (size_t i = 0; i < num; i++) {
        const char *row = rows + picks[i] * w.stride;
        if (i + AHEAD < num) prefetch_row(rows + picks[i + AHEAD] * w.stride, w.stride);
#pragma GCC unroll 8
        for (size_t k = 0; k < w.num_fields; k++) memcpy(columns[k] + i * w.nbytes[k], row + w.offset[k], w.nbytes[k]);
    }
}

INLINE void best_gather(const Workload w, const char *rows, const int64_t *picks, size_t num, char *const *columns) {
    if (w.stride < BIG)
        gather_short(w, rows, picks, num, columns);
    else
        gather_long(w, rows, picks, num, columns);
}

/* One row after another, with prefetching: the simple way. */
INLINE void gather(const Workload w, const char *rows, const int64_t *picks, size_t num, char *const *columns) {
    const size_t ahead = w.stride < BIG ? 16 : 1;
    const size_t reach = w.stride < 1024 ? w.stride : 1024;
    const int streams = num * w.stride >= OUT_OF_CACHE;
    for (size_t i = 0; i < num && i < ahead; i++) prefetch_near(rows + picks[i] * w.stride, reach);
    for (size_t i = 0; i < num; i++) {
        const char *row = rows + picks[i] * w.stride;
        if (i + ahead < num) prefetch_near(rows + picks[i + ahead] * w.stride, reach);
#pragma GCC unroll 8
        for (size_t k = 0; k < w.num_fields; k++)
            if (streams && w.nbytes[k] >= BIG)
                stream(columns[k] + i * w.nbytes[k], row + w.offset[k], w.nbytes[k], 1024);
            else
                memcpy(columns[k] + i * w.nbytes[k], row + w.offset[k], w.nbytes[k]);
    }
    _mm_sfence();
}

INLINE void scatter_staged(const Workload w, char *rows, size_t num, const char *const *columns) {
    _Alignas(LINE) char stage[STAGE];
    const size_t staged = STAGE / w.stride;
    memset(stage, 0, sizeof stage);
    for (size_t first = 0; first < num; first += staged) {
        const size_t count = num - first < staged ? num - first : staged;
#pragma GCC unroll 8
        for (size_t k = 0; k < w.num_fields; k++)
            for (size_t i = 0; i < count; i++)
                memcpy(stage + i * w.stride + w.offset[k], columns[k] + (first + i) * w.nbytes[k], w.nbytes[k]);
        stream(rows + first * w.stride, stage, count * w.stride, 0);
    }
}

INLINE void scatter_streamed(const Workload w, char *rows, size_t num, const char *const *columns) {
    for (size_t i = 0; i < num; i++) {
        /* A line that is written in parts is read first: prefetch it. */
        for (size_t k = 0; k < w.num_fields && i + 2 < num; k++)
            if (w.nbytes[k] < BIG || w.nbytes[k] % LINE) {
                const char *end = rows + (i + 2) * w.stride + w.offset[k] + w.nbytes[k];
                _mm_prefetch(end - 1, _MM_HINT_T0);
            }
#pragma GCC unroll 8
        for (size_t k = 0; k < w.num_fields; k++) {
            char *to = rows + i * w.stride + w.offset[k];
            const char *from = columns[k] + i * w.nbytes[k];
            if (w.nbytes[k] >= BIG)
                stream(to, from, w.nbytes[k], 1024);
            else
                memcpy(to, from, w.nbytes[k]);
        }
    }
}

INLINE void scatter(const Workload w, char *rows, size_t num, const char *const *columns) {
    if (w.nbytes[0] >= BIG)
        scatter_streamed(w, rows, num, columns);
    else
        scatter_staged(w, rows, num, columns);
    _mm_sfence();
}

/* picks[i] is the first frame of row i; state and after are [num, 4 * FRAME]. */
INLINE void gather_frames(const char *frames, const int64_t *picks, size_t num, char *state, char *after, int streams) {
    for (size_t first = 0; first < num; first += SIDE_BY_SIDE) {
        const char *row[SIDE_BY_SIDE];
        const size_t count = num - first < SIDE_BY_SIDE ? num - first : SIDE_BY_SIDE;
        for (size_t i = 0; i < count; i++) row[i] = frames + picks[first + i] * FRAME;
        for (size_t i = first + SIDE_BY_SIDE; i < num && i < first + 2 * SIDE_BY_SIDE; i++)
            prefetch_row(frames + picks[i] * FRAME, START);
        for (size_t i = 0; i < count && count < SIDE_BY_SIDE; i++) {
            memcpy(state + (first + i) * STACK, row[i], STACK);
            memcpy(after + (first + i) * STACK, row[i] + FRAME, STACK);
        }
        if (count < SIDE_BY_SIDE) continue;
        copy_side_by_side(state + first * STACK, row, 0, STACK, streams);
        copy_side_by_side(after + first * STACK, row, FRAME, STACK, streams);
    }
    _mm_sfence();
}

/* Exclusive or of all words of two columns: a lower bound for anything that looks at every byte. */
uint64_t floor_read(const uint64_t *one, const uint64_t *other, size_t num) {
    uint64_t words[8] = {0};
    size_t at = 0;
    for (; at + 8 <= num; at += 8)
        for (size_t k = 0; k < 8; k++) words[k] ^= one[at + k] ^ other[at + k];
    for (; at < num; at++) words[0] ^= one[at] ^ other[at];
    return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

void floor_gather(int workload, const char *rows, const int64_t *picks, size_t num, char *const *columns) {
    if (workload == 0) gather(CARTPOLE, rows, picks, num, columns);
    if (workload == 1) gather(WIDE, rows, picks, num, columns);
    if (workload == 2) gather(ATARI, rows, picks, num, columns);
}

WITH_AVX512
void floor_best_gather(int workload, const char *rows, const int64_t *picks, size_t num, char *const *columns) {
    if (workload == 0) best_gather(CARTPOLE, rows, picks, num, columns);
    if (workload == 1) best_gather(WIDE, rows, picks, num, columns);
    if (workload == 2) best_gather(ATARI, rows, picks, num, columns);
}

void floor_scatter(int workload, char *rows, size_t num, const char *const *columns) {
    if (workload == 0) scatter(CARTPOLE, rows, num, columns);
    if (workload == 1) scatter(WIDE, rows, num, columns);
    if (workload == 2) scatter(ATARI, rows, num, columns);
}

WITH_AVX512
void floor_gather_frames(const char *frames, const int64_t *picks, size_t num, char *state, char *after, int streams) {
    gather_frames(frames, picks, num, state, after, streams);
}

size_t floor_stride(int workload) {
    return (workload == 0 ? CARTPOLE : workload == 1 ? WIDE : ATARI).stride;
}

/* Zeroed memory, in huge pages if the system has them. */
char *floor_reserve(size_t nbytes) {
    char *pages = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return NULL;
    madvise(pages, nbytes, MADV_HUGEPAGE);
    return pages;
}

void floor_release(char *pages, size_t nbytes) { munmap(pages, nbytes); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds for `repeats` batches; batch r takes picks[r * num .. (r + 1) * num). */
double floor_time_gather(int workload, const char *rows, const int64_t *picks, size_t num, char *const *columns,
                         size_t repeats, int best) {
    const double start = now();
    for (size_t r = 0; r < repeats; r++)
        (best ? floor_best_gather : floor_gather)(workload, rows, picks + r * num, num, columns);
    return now() - start;
}

/* Seconds for `repeats` puts of the same columns into a ring of `capacity` rows. */
double floor_time_scatter(int workload, char *rows, size_t capacity, size_t num, const char *const *columns,
                          size_t repeats) {
    size_t next = 0;
    const size_t stride = floor_stride(workload);
    const double start = now();
    for (size_t r = 0; r < repeats; r++) {
        if (next + num > capacity) next = 0;
        floor_scatter(workload, rows + next * stride, num, columns);
        next += num;
    }
    return now() - start;
}
