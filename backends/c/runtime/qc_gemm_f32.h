/* Matrix product of floats, linear layers and convolutions alike.
 *
 *   out[m][n] = clamp((bias[n] + sum over t < taps, k < depth of  a(m, t)[k] * w[n][t][k]) + added[m][n], low, high)
 *
 * One chain of fused multiply-adds per element: it starts at bias[n] (0 when there is none) and goes through t, in it
 * through k, on every level; what is added comes last. NaN is not clamped. As for qc_gemm_i8,
 *
 *   a(m, t) = input + (m / width) * outer_stride + (m % width) * inner_stride + offsets[t]
 *
 * where a linear layer has taps = 1, no offsets, and a width of all rows, and a convolution reads an image in
 * channels-last order with its border of zeros; pixels of a window that lie side by side may be one tap.
 *
 * Weights are [ceil(N / 16)][taps][depth][16], missing ones are zero: `blocked` with 16 columns and a depth of 1.
 * Products of two activations pack the second by qc_pack_f32 first. `out` overlaps nothing that is read.
 *
 * Tasks are rows m.
 */
#ifndef QC_GEMM_F32_H
#define QC_GEMM_F32_H

#include "qc_lanes.h"

typedef struct {
    const float *input;
    size_t width, inner_stride, outer_stride; /* strides in elements */
    const int32_t *offsets;                   /* [taps] in elements, or NULL for zeros */
    const float *weight;
    size_t columns, taps, depth;
    const float *bias;   /* [columns] or NULL */
    const float *added;  /* [rows][columns] or NULL */
    size_t added_stride; /* elements from row to row */
    float *out;
    size_t out_stride; /* elements from row to row */
    float low, high;   /* -INFINITY and INFINITY where nothing is clamped */
} qc_gemm_f32_args;

void qc_gemm_f32_portable(const qc_gemm_f32_args *args, size_t begin, size_t end);
void qc_gemm_f32_neon(const qc_gemm_f32_args *args, size_t begin, size_t end);

/* Where row m begins, before the offset of a tap. */
QC_INLINE const float *qc_gemm_f32_row(const qc_gemm_f32_args *args, size_t m) {
    return args->input + m / args->width * args->outer_stride + m % args->width * args->inner_stride;
}

#endif
