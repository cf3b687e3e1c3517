/* Integer matrix product, linear layers and convolutions alike.
 *
 *   out[m][n] = finish(sum over t < taps, k < depth of  a(m, t)[k] * w[n][t][k])
 *
 * a(m, t) = input + (m / width) * outer_stride + (m % width) * inner_stride + offsets[t]
 *
 * A linear layer has taps = 1, no offsets, and a width of all rows. A convolution reads an image in channels-last
 * order that already has its border of zero points: m counts output pixels, `width` of them in an output row. There is
 * one tap for every row of the window when its pixels lie side by side (depth is then window width * channels, which is
 * what makes first layers of few channels fast), else one for every position.
 *
 * Weights are int8, [ceil(n / C)][taps][ceil(depth / D)][C][D] with C = block_columns and D = block_depth of the
 * level's layout; missing ones are zero. Activations may be read up to the next multiple of D, or further (QC_SLACK).
 * int32 holds every sum: taps * depth <= 32768 is the generator's to check.
 *
 * Tasks are rows m.
 */
#ifndef QC_GEMM_I8_H
#define QC_GEMM_I8_H

#include "qc_epilogue.h"

typedef struct {
    const qc_act *input;
    size_t width, inner_stride, outer_stride; /* strides in elements */
    const int32_t *offsets;                   /* [taps] in elements, or NULL for zeros */
    const int8_t *weight;
    size_t columns, taps, depth;
    size_t block_columns, block_depth;
    void *out;
    size_t out_stride; /* elements from row to row */
    qc_epilogue epilogue;
} qc_gemm_i8_args;

void qc_gemm_i8_portable(const qc_gemm_i8_args *args, size_t begin, size_t end);
void qc_gemm_i8_avx2(const qc_gemm_i8_args *args, size_t begin, size_t end);
void qc_gemm_i8_avx512(const qc_gemm_i8_args *args, size_t begin, size_t end);
void qc_gemm_i8_amx(const qc_gemm_i8_args *args, size_t begin, size_t end);
void qc_gemm_i8_neon(const qc_gemm_i8_args *args, size_t begin, size_t end);
void qc_gemm_i8_dotprod(const qc_gemm_i8_args *args, size_t begin, size_t end);
void qc_gemm_i8_i8mm(const qc_gemm_i8_args *args, size_t begin, size_t end);

#endif
