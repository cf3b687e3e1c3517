/* Matrix product of signs, linear layers and convolutions alike.
 *
 *   sum[m][n] = sum over t < taps, k < depth of  sign(a(m, t)[k]) * sign(w[n][t][k])  - correction[pattern[m]][n]
 *             = taps * depth - 2 * popcount(a(m, .) xor w[n])                         - correction[pattern[m]][n]
 *
 * A bit is the sign: 0 is 1, 1 is -1. Bit k of a tap is bit k % 8 of byte k / 8. One tap of one row is `depth` bits in
 * whole words of 8 bytes, bits behind `depth` zero, so that the same activations serve every level.
 *
 * a(m, t) = input + (m / width) * outer_stride + (m % width) * inner_stride + offsets[t], as for qc_gemm_i8: an image
 * already has its border, and there is one tap for every position of the window, or one for every row of the window
 * where whole words of its pixels lie side by side. Signs have no zero: the border is all 1 (zero bits) or all -1
 * (`depth` one bits). Where it has to count nothing, let it be 1 and subtract its share: correction[p][n] = the sum of
 * sign(w[n][t][k]) over the taps that lie outside in pattern p, of which an image has few (9 for a 3x3 window).
 *
 * Weights are the rows [n][taps * words of a tap], [ceil(n / C)][ceil(bytes / D)][C][D] with C = block_columns and
 * D = block_depth of the level's layout, missing ones are zero. `chained` says that the words of 8 bytes come in pairs,
 * their number rounded up to even, and that the second of each holds its exclusive or with the first: a carry-save
 * adder then takes two words by three instructions instead of four.
 *
 * With `threshold` the result is signs again, ready to be the input of the next layer:
 *   bit[m][n] = (sum[m][n] < threshold[n]) xor flip[n]
 * in whole words of 8 bytes, zero behind the last column. Batch normalization in front of a sign is such a threshold,
 * flipped where its factor is negative. Without it the sum goes through the epilogue.
 *
 * taps * (words of a tap) <= QC_B1_WORDS, which also bounds every sum. Tasks are rows m. Versions above the portable
 * one take 40 KB of stack.
 */
#ifndef QC_GEMM_B1_H
#define QC_GEMM_B1_H

#include "qc_epilogue.h"

#define QC_B1_WORDS 512 /* 32768 signs */

typedef struct {
    const uint8_t *input;
    size_t width, inner_stride, outer_stride; /* strides in bytes, whole words */
    const int32_t *offsets;                   /* [taps] in bytes, whole words, or NULL for zeros */
    const uint8_t *weight;
    size_t columns, taps, depth;
    size_t block_columns, block_depth; /* block_depth in bytes */
    int chained;
    const int32_t *correction; /* [patterns][columns], NULL without */
    const uint16_t *pattern;   /* [row count], NULL without correction */
    void *out;
    size_t out_stride;        /* elements from row to row; bytes with threshold, whole words */
    const int32_t *threshold; /* [columns, rounded up to whole panels] within -2^30 .. 2^30, or NULL */
    const uint8_t *flip;      /* bits in whole words, zero behind the last column; NULL without threshold */
    qc_epilogue epilogue;     /* not looked at with threshold */
} qc_gemm_b1_args;

void qc_gemm_b1_portable(const qc_gemm_b1_args *args, size_t begin, size_t end);
void qc_gemm_b1_avx2(const qc_gemm_b1_args *args, size_t begin, size_t end);
void qc_gemm_b1_avx512(const qc_gemm_b1_args *args, size_t begin, size_t end);
void qc_gemm_b1_neon(const qc_gemm_b1_args *args, size_t begin, size_t end);
void qc_gemm_b1_neon32(const qc_gemm_b1_args *args, size_t begin, size_t end);

#endif
