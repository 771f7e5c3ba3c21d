/* A dense layer, y = x w + b, for small layers and few rows, where a library of matrix products spends most of its time
   before the first product. An output is a sum in the order of the inputs, whose products and sums are rounded one by
   one: the same bits for any number of rows and with any instructions. */
#ifndef REALLY_DENSE_H
#define REALLY_DENSE_H

#include <stddef.h>
#include <string.h>

#include "../common/cpu.h"

enum { REALLY_DENSE_WIDTH = 16 }; /* weights have a multiple of it as columns */
enum { REALLY_DENSE_ROWS = 4 };   /* rows of a tile with AVX2, whose registers have all its sums; else one */

/* Weights `[inputs, columns]` and a bias `[columns]`, of which `outputs` are used and the rest is padding. */
typedef struct {
    const float *weights, *bias;
    ptrdiff_t inputs, columns, outputs;
} really_dense_layer;

/* Eight numbers, added and multiplied with one instruction where the processor has it. */
#if defined(__GNUC__)
typedef float really_eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef int really_eight_bits __attribute__((vector_size(32)));
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

/* Adds the bias; with `rectified`, negative numbers become 0 and NaN stays. */
REALLY_INLINE void really_eight_finish(really_eight *sum, const float *bias, int rectified) {
#if defined(__GNUC__)
    *sum += *(const really_eight *)bias;
    if (rectified) *sum = (really_eight)((really_eight_bits)*sum & ~(*sum < 0));
#else
    for (int k = 0; k < 8; k++) {
        sum->at[k] += bias[k];
        if (rectified && sum->at[k] < 0) sum->at[k] = 0;
    }
#endif
}

/* `num` rows and `8 * eights` columns from `at` on. What is no pointer and no `at` is a constant where this is called,
   so that registers hold the sums. */
REALLY_INLINE void really_dense_tile(
    const really_dense_layer *layer, float *to, const float *rows, ptrdiff_t at, int rectified, int num, int eights
) {
    really_eight sums[8];
    for (int k = 0; k < num * eights; k++) memset(&sums[k], 0, sizeof *sums);
    const float *from = layer->weights + at;
    for (ptrdiff_t i = 0; i < layer->inputs; i++, from += layer->columns)
        for (int row = 0; row < num; row++)
            for (int k = 0; k < eights; k++)
                really_eight_add_product(&sums[row * eights + k], rows[row * layer->inputs + i], from + 8 * k);
    for (int k = 0; k < num * eights; k++)
        really_eight_finish(&sums[k], layer->bias + at + 8 * (k % eights), rectified);
    const ptrdiff_t width = layer->outputs - at;
    for (int row = 0; row < num; row++)
        if (width >= 8 * eights) memcpy(to + row * layer->outputs + at, &sums[row * eights], eights * sizeof *sums);
        else memcpy(to + row * layer->outputs + at, &sums[row * eights], (size_t)width * sizeof *to);
}

/* `num` rows and all columns. Sums of a tile are about eight, as each waits for the one before. */
REALLY_INLINE void really_dense_rows(
    const really_dense_layer *layer, float *to, const float *rows, int rectified, int num
) {
    ptrdiff_t at = 0;
    if (num == 1)
        for (; at + 56 < layer->outputs; at += 64) really_dense_tile(layer, to, rows, at, rectified, 1, 8);
    if (num <= 4)
        for (; at + 8 < layer->outputs; at += 16) really_dense_tile(layer, to, rows, at, rectified, num, 2);
    for (; at < layer->outputs; at += 8) really_dense_tile(layer, to, rows, at, rectified, num, 1);
}

REALLY_INLINE void really_dense_any(
    const really_dense_layer *layer, float *to, const float *rows, ptrdiff_t num, int rectified, int has_tiles
) {
    const ptrdiff_t inputs = layer->inputs, outputs = layer->outputs;
    ptrdiff_t row = 0;
    if (has_tiles && outputs <= 8)
        for (; row + 8 <= num; row += 8)
            really_dense_rows(layer, to + row * outputs, rows + row * inputs, rectified, 8);
    if (has_tiles)
        for (; row + 4 <= num; row += 4)
            really_dense_rows(layer, to + row * outputs, rows + row * inputs, rectified, 4);
    for (; row < num; row++) really_dense_rows(layer, to + row * outputs, rows + row * inputs, rectified, 1);
}

#if defined(REALLY_DISPATCH)
REALLY_TARGET("avx2")
static void really_dense_256(
    const really_dense_layer *layer, float *to, const float *rows, ptrdiff_t num, int rectified
) {
    if (rectified) really_dense_any(layer, to, rows, num, 1, 1);
    else really_dense_any(layer, to, rows, num, 0, 1);
}
#endif

/* Writes `[num, outputs]` for rows `[num, inputs]`. */
static inline void really_dense(
    const really_dense_layer *layer, float *to, const float *rows, ptrdiff_t num, int rectified
) {
#if defined(REALLY_DISPATCH)
    if (really_cpu_level >= REALLY_CPU_AVX2) {
        really_dense_256(layer, to, rows, num, rectified);
        return;
    }
#endif
    if (rectified) really_dense_any(layer, to, rows, num, 1, 0);
    else really_dense_any(layer, to, rows, num, 0, 0);
}

#endif
