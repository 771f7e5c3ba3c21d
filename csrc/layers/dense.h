/* A dense layer, y = x w + b, for small layers and few rows, where a library of matrix products spends most of its time
   before the first product. An output is a sum in the order of the inputs, whose products and sums are rounded one by
   one: the same bits for any number of rows and with any instructions. */
#ifndef REALLY_DENSE_H
#define REALLY_DENSE_H

#include <stddef.h>
#include <string.h>

#include "../common/cpu.h"

enum { REALLY_DENSE_WIDTH = 16 }; /* outputs of a tile: weights have a multiple of it as columns */
enum { REALLY_DENSE_ROWS = 4 };   /* rows of a tile with AVX2, whose registers have all their sums; else one */

/* Eight numbers, added and multiplied with one instruction where the processor has it. */
#if defined(__GNUC__)
typedef float really_eight __attribute__((vector_size(32), aligned(4), may_alias));
#else
typedef struct { float at[8]; } really_eight;
#endif

REALLY_INLINE void really_eight_add_product(really_eight *sum, float factor, const float *numbers) {
#if defined(__GNUC__)
    *sum += factor * *(const really_eight *)numbers;
#else
    for (int k = 0; k < 8; k++) sum->at[k] += factor * numbers[k];
#endif
}

/* Adds the bias; with `rectified`, negative numbers become 0 and NaN stays. Copies the first `width` of the numbers. */
REALLY_INLINE void really_dense_finish(
    float *to, const really_eight *sums, int eights, const float *bias, ptrdiff_t width, int rectified
) {
    float found[8 * REALLY_DENSE_WIDTH / 2];
    memcpy(found, sums, (size_t)eights * 8 * sizeof *found);
    for (int k = 0; k < 8 * eights; k++) {
        const float value = found[k] + bias[k];
        found[k] = rectified && value < 0 ? 0 : value;
    }
    if (width >= 8 * eights) memcpy(to, found, (size_t)eights * 8 * sizeof *found);
    else memcpy(to, found, (size_t)width * sizeof *found);
}

/* `num` rows and `8 * eights` columns; both are constants where this is called. */
REALLY_INLINE void really_dense_tile(
    float *to, const float *rows, const float *weights, const float *bias, ptrdiff_t inputs, ptrdiff_t columns,
    ptrdiff_t outputs, ptrdiff_t at, int rectified, int num, int eights
) {
    really_eight sums[8];
    memset(sums, 0, sizeof sums);
    const float *from = weights + at;
    for (ptrdiff_t i = 0; i < inputs; i++, from += columns)
        for (int row = 0; row < num; row++)
            for (int k = 0; k < eights; k++)
                really_eight_add_product(&sums[row * eights + k], rows[row * inputs + i], from + 8 * k);
    for (int row = 0; row < num; row++)
        really_dense_finish(to + row * outputs + at, sums + row * eights, eights, bias + at, outputs - at, rectified);
}

REALLY_INLINE void really_dense_any(
    float *to, const float *rows, ptrdiff_t num, const float *weights, const float *bias, ptrdiff_t inputs,
    ptrdiff_t columns, ptrdiff_t outputs, int rectified, int has_tiles
) {
    ptrdiff_t row = 0;
    for (; has_tiles && row + REALLY_DENSE_ROWS <= num; row += REALLY_DENSE_ROWS)
        for (ptrdiff_t at = 0; at < columns; at += REALLY_DENSE_WIDTH)
            really_dense_tile(to + row * outputs, rows + row * inputs, weights, bias, inputs, columns, outputs, at,
                              rectified, REALLY_DENSE_ROWS, 2);
    for (; row < num; row++) {
        ptrdiff_t at = 0;
        for (; at + 4 * REALLY_DENSE_WIDTH <= columns; at += 4 * REALLY_DENSE_WIDTH)
            really_dense_tile(to + row * outputs, rows + row * inputs, weights, bias, inputs, columns, outputs, at,
                              rectified, 1, 8);
        for (; at < columns; at += REALLY_DENSE_WIDTH)
            really_dense_tile(to + row * outputs, rows + row * inputs, weights, bias, inputs, columns, outputs, at,
                              rectified, 1, 2);
    }
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2")
static void really_dense_256(
    float *to, const float *rows, ptrdiff_t num, const float *weights, const float *bias, ptrdiff_t inputs,
    ptrdiff_t columns, ptrdiff_t outputs, int rectified
) {
    really_dense_any(to, rows, num, weights, bias, inputs, columns, outputs, rectified, 1);
}
#endif

/* Rows `[num, inputs]`, weights `[inputs, columns]` and bias `[columns]`, of which `outputs` are used and the rest is
   padding; writes `[num, outputs]`. */
static inline void really_dense(
    float *to, const float *rows, ptrdiff_t num, const float *weights, const float *bias, ptrdiff_t inputs,
    ptrdiff_t columns, ptrdiff_t outputs, int rectified
) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX2) {
        really_dense_256(to, rows, num, weights, bias, inputs, columns, outputs, rectified);
        return;
    }
#endif
    really_dense_any(to, rows, num, weights, bias, inputs, columns, outputs, rectified, 0);
}

#endif
