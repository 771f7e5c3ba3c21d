/* The floor that the buffer is held against: what plain C, with nothing but the copies, reaches on this machine.

   Gather: rows of records, picked by index, copied to columns in reused memory, the rows to come prefetched.
   Scatter: columns put together to records in the first-level cache and streamed out by whole cache lines.
   Frames: rows are four of five frames that stand side by side, and the four from the second on, copied one behind the other.
   Read: every byte of two columns, which is what a put has to know at least to find what they share.
   Sizes of the three workloads are constants, so that the compiler makes of each copy what it can. Time is taken
   here, around many batches, so that no call from Python is in it. Build: cc -O3 -shared -fPIC floor.c -o floor */
#define _GNU_SOURCE
#include <emmintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define INLINE static inline __attribute__((always_inline))
enum { LINE = 64, MAX_FIELDS = 5, STAGE = 8192, BIG = 512, OUT_OF_CACHE = 1 << 25, FRAME = 84 * 84, STACK = 4 * FRAME };

typedef struct {
    size_t num_fields, nbytes[MAX_FIELDS], offset[MAX_FIELDS], stride;
    size_t ahead;  /* rows */
} Workload;

static const Workload CARTPOLE = {5, {16, 8, 4, 16, 4}, {0, 16, 24, 28, 44}, 64, 16};
static const Workload WIDE = {5, {1504, 68, 4, 1504, 4}, {0, 1504, 1572, 1600, 3104}, 3136, 1};
static const Workload ATARI = {2, {28224, 28224}, {0, 28224}, 56448, 1};

INLINE void prefetch_row(const char *row, size_t nbytes) {
    for (size_t at = 0; at < nbytes; at += LINE) _mm_prefetch(row + at, _MM_HINT_T0);
}

/* Past the cache, from the first whole line on, the source asked for `ahead` bytes before its turn. */
INLINE void stream(char *to, const char *from, size_t nbytes, size_t ahead) {
    size_t at = -(uintptr_t)to % LINE;
    at = at < nbytes ? at : nbytes;
    memcpy(to, from, at);
    for (; at + LINE <= nbytes; at += LINE) {
        if (ahead) _mm_prefetch(from + at + ahead, _MM_HINT_T0);
        const __m128i a = _mm_loadu_si128((const __m128i *)(from + at));
        const __m128i b = _mm_loadu_si128((const __m128i *)(from + at + 16));
        const __m128i c = _mm_loadu_si128((const __m128i *)(from + at + 32));
        const __m128i d = _mm_loadu_si128((const __m128i *)(from + at + 48));
        _mm_stream_si128((__m128i *)(to + at), a);
        _mm_stream_si128((__m128i *)(to + at + 16), b);
        _mm_stream_si128((__m128i *)(to + at + 32), c);
        _mm_stream_si128((__m128i *)(to + at + 48), d);
    }
    memcpy(to + at, from + at, nbytes - at);
}

INLINE void gather(const Workload w, const char *rows, const int64_t *picks, size_t num, char *const *columns) {
    const size_t reach = w.stride < 1024 ? w.stride : 1024;
    const int streams = num * w.stride >= OUT_OF_CACHE;
    for (size_t i = 0; i < num && i < w.ahead; i++) prefetch_row(rows + picks[i] * w.stride, reach);
    for (size_t i = 0; i < num; i++) {
        const char *row = rows + picks[i] * w.stride;
        if (i + w.ahead < num) prefetch_row(rows + picks[i + w.ahead] * w.stride, reach);
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
        /* Lines that are written in parts are read first: have them here by then. */
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
    for (size_t i = 0; i < num; i++) {
        const char *row = frames + picks[i] * FRAME;
        if (i + 1 < num) prefetch_row(frames + picks[i + 1] * FRAME, 1024);
        if (streams) {
            stream(state + i * STACK, row, STACK, 2048);
            stream(after + i * STACK, row + FRAME, STACK, 2048);
        } else {
            memcpy(state + i * STACK, row, STACK);
            memcpy(after + i * STACK, row + FRAME, STACK);
        }
    }
    _mm_sfence();
}

/* All words of two columns, read side by side, in one: nothing that has to know their bytes does with less. */
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

void floor_scatter(int workload, char *rows, size_t num, const char *const *columns) {
    if (workload == 0) scatter(CARTPOLE, rows, num, columns);
    if (workload == 1) scatter(WIDE, rows, num, columns);
    if (workload == 2) scatter(ATARI, rows, num, columns);
}

void floor_gather_frames(const char *frames, const int64_t *picks, size_t num, char *state, char *after, int streams) {
    gather_frames(frames, picks, num, state, after, streams);
}

size_t floor_stride(int workload) {
    return (workload == 0 ? CARTPOLE : workload == 1 ? WIDE : ATARI).stride;
}

/* Zeroed memory in huge pages where the system has them. */
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
                         size_t repeats) {
    const double start = now();
    for (size_t r = 0; r < repeats; r++) floor_gather(workload, rows, picks + r * num, num, columns);
    return now() - start;
}

/* Seconds for `repeats` insertions of the same columns one after another into a ring of `capacity` rows. */
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
