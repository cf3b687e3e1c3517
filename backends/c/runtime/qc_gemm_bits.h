/* Matrix product of numbers of few bits, a plane of bits at a time: 1 to 4 planes on either side.
 *
 *   total[m][n] = sum over t < taps, k < depth of  a(m, t)[k] * w[n][t][k]
 *   a = sum over j < input_planes  of input_factor[j]  * p(bit j of a)
 *   w = sum over i < weight_planes of weight_factor[i] * p(bit i of w)
 *
 * p(bit) is the bit itself, or the sign 1 - 2 * bit where `input_signs` or `weight_signs` says so. Unsigned numbers
 * have the factors 1, 2, 4, 8, two's complement a negative last one; signs with these factors are the odd numbers from
 * 1 - 2^planes to 2^planes - 1. The total, int32, goes through the epilogue.
 *
 * With `weight_scale` both sides are signs, each plane has a factor of its own in float, and
 *   real = fmaf(float(sum of p(bit j of a) * p(bit i of w)), weight_scale[i][n] * input_scale[j], real)
 * from 0 through i, in it through j, is the result: `epilogue.finish` is QC_REALS, or QC_REALS_BIASED to add
 * float_bias, and nothing else of the epilogue is looked at.
 *
 * A plane of activations is rows of signs as in qc_gemm_b1.h, with the same addresses; planes lie `plane_stride` bytes
 * apart. Bits behind `depth` are zero. A border is the bits of a number, as everything else.
 *
 * Weights are packed as those of qc_gemm_b1, their rows in the order of [ceil(n / 16)][planes][16], missing rows zero.
 *
 * input_planes * taps * (words of a tap) <= QC_B1_WORDS, which also bounds every sum. Tasks are rows m.
 * Versions above the portable one take 48 KB of stack.
 */
#ifndef QC_GEMM_BITS_H
#define QC_GEMM_BITS_H

#include "qc_gemm_b1.h"

#define QC_BITS_PLANES 4
#define QC_BITS_GROUP 16 /* columns whose planes lie together */

typedef struct {
    const uint8_t *input;
    size_t plane_stride;                      /* bytes */
    size_t width, inner_stride, outer_stride; /* strides in bytes, whole words */
    const int32_t *offsets;                   /* [taps] in bytes, whole words, or NULL for zeros */
    const uint8_t *weight;
    size_t columns, taps, depth;
    size_t block_columns, block_depth; /* block_depth in bytes */
    int chained;
    size_t input_planes, weight_planes;
    int input_signs, weight_signs;
    int32_t input_factor[QC_BITS_PLANES], weight_factor[QC_BITS_PLANES];
    const int32_t *weight_sum;   /* [columns, rounded up to 16]: sums of w over t and k; NULL with input_signs */
    const float *weight_scale;   /* [weight_planes][columns, rounded up to 16] or NULL */
    float input_scale[QC_BITS_PLANES];
    void *out;
    size_t out_stride; /* elements from row to row */
    qc_epilogue epilogue;
} qc_gemm_bits_args;

void qc_gemm_bits_portable(const qc_gemm_bits_args *args, size_t begin, size_t end);
void qc_gemm_bits_avx2(const qc_gemm_bits_args *args, size_t begin, size_t end);
void qc_gemm_bits_avx512(const qc_gemm_bits_args *args, size_t begin, size_t end);
void qc_gemm_bits_neon(const qc_gemm_bits_args *args, size_t begin, size_t end);
void qc_gemm_bits_neon32(const qc_gemm_bits_args *args, size_t begin, size_t end);

#endif
