/* Integer depthwise convolution: every channel by its own window, in channels-last order.
 *
 *   out[m][c] = finish(sum over t < taps of  a(m, t)[c] * w[c][t])
 *
 * a(m, t) = input + (m / width) * outer_stride + (m % width) * inner_stride + offsets[t]
 *
 * as for qc_gemm_i8: the image already has its border of zero points, m counts output pixels, `width` of them in an
 * output row, and there is one tap for every position of the window.
 *
 * For speed, windows of up to four rows and three columns have their taps column by column, each filled up to four by
 * taps with weights of zero and the offset of another (12 in all): neighbours then share the columns that
 * offsets[t + 4 * s] == offsets[t] + inner_stride shows to be the same, for s = 1 or 2.
 *
 * Weights are int8, the codes [channels][taps] packed as those of a matrix product with the taps as inputs:
 * [ceil(channels / C)][ceil(taps / D)][C][D] with C = block_columns, D = block_depth; missing ones are zero. With
 * block_lanes L > 1 the C channels of a panel do not stand in order: channel c stands at
 *   (c % S / G * L + c / S) * G + c % G     with S = C / L and G = 16 / D,
 * which is the order that interleaving the bytes of D taps in each 128-bit lane leaves behind (x86: C = 64, D = 4,
 * L = 4). Activations of a pixel may be read up to the next multiple of 64 channels, or further (QC_SLACK).
 * `out` and the vectors of the epilogue are in the order of channels.
 *
 * Tasks are positions m.
 */
#ifndef QC_DEPTHWISE_I8_H
#define QC_DEPTHWISE_I8_H

#include "qc_epilogue.h"

typedef struct {
    const qc_act *input;
    size_t width, inner_stride, outer_stride; /* strides in elements */
    const int32_t *offsets;                   /* [taps] in elements */
    const int8_t *weight;
    size_t channels, taps;
    size_t block_columns, block_depth, block_lanes; /* block_lanes 0 or 1: in order */
    void *out;
    size_t out_stride; /* elements from position to position */
    qc_epilogue epilogue;
} qc_depthwise_i8_args;

void qc_depthwise_i8_portable(const qc_depthwise_i8_args *args, size_t begin, size_t end);
void qc_depthwise_i8_avx2(const qc_depthwise_i8_args *args, size_t begin, size_t end);
void qc_depthwise_i8_avx512(const qc_depthwise_i8_args *args, size_t begin, size_t end);
void qc_depthwise_i8_neon(const qc_depthwise_i8_args *args, size_t begin, size_t end);
void qc_depthwise_i8_dotprod(const qc_depthwise_i8_args *args, size_t begin, size_t end);

#endif
