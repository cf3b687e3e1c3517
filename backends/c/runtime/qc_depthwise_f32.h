/* Depthwise convolution of floats in channels-last order.
 *
 *   out[m][c] = clamp(bias[c] + sum over t < taps of rows[m * taps + t][c] * w[t][c], low, high)
 *
 * One chain of fused multiply-adds over t that starts at bias[c], or 0. Weights are [taps][channels].
 *
 * Tasks are positions m.
 */
#ifndef QC_DEPTHWISE_F32_H
#define QC_DEPTHWISE_F32_H

#include "qc_lanes.h"

typedef struct {
    const float *input;       /* what the pointers reach into */
    const float *const *rows; /* [position count * taps], each to `channels` floats; zeros outside of the input */
    const float *weight;
    size_t channels, taps;
    const float *bias; /* [channels] or NULL */
    float *out;
    size_t out_stride; /* elements from position to position */
    float low, high;
} qc_depthwise_f32_args;

void qc_depthwise_f32_portable(const qc_depthwise_f32_args *args, size_t begin, size_t end);

#endif
