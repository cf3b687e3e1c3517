/* Depthwise convolution of floats in channels-last order.
 *
 *   out[m][c] = clamp(bias[c] + sum over t < taps of a(m, t)[c] * w[t][c], low, high)
 *
 * One chain of fused multiply-adds over t that starts at bias[c], or 0. Weights are [taps][channels]. As for qc_gemm_i8,
 *
 *   a(m, t) = input + (m / width) * outer_stride + (m % width) * inner_stride + offsets[t]
 *
 * in an image that already has its border of zeros.
 *
 * Tasks are positions m.
 */
#ifndef QC_DEPTHWISE_F32_H
#define QC_DEPTHWISE_F32_H

#include "qc_lanes.h"

typedef struct {
    const float *input;
    size_t width, inner_stride, outer_stride; /* strides in elements */
    const int32_t *offsets;                   /* [taps] in elements */
    const float *weight;
    size_t channels, taps;
    const float *bias; /* [channels] or NULL */
    float *out;
    size_t out_stride; /* elements from position to position */
    float low, high;
} qc_depthwise_f32_args;

void qc_depthwise_f32_portable(const qc_depthwise_f32_args *args, size_t begin, size_t end);

#endif
