/* Matrix product of float activations and weights of 2, 3, 4 or 8 bits with a scale for every block of inputs.
 *
 *   weight(n, k) = float(code[n][k] - zero[n][g]) * scale[n][g]                for k of block g,
 *                  or table[code[n][k]] * scale[n][g]
 *   acc          = bias[n], or 0
 *   acc          = fmaf(input[m][k], weight(n, k), acc)                        for k = 0, 1, ...
 *   out[m][n]    = acc
 *
 * Codes are unsigned. A block may be the whole row; the last one may be shorter. Ternary weights are codes 0, 1, 2 of
 * two bits with zero point 1. A table is for codes of 2, 3 or 4 bits; where they are fewer than 16 it starts again.
 *
 * Weights lie as qc_low_bit.h says, [ceil(n / C)] panels of C = block_columns outputs, runs of one input, words of 32
 * bits. Scales and zero points are [ceil(n / C)][blocks][C]; what stands there for missing outputs is finite.
 *
 * Tasks are panels: all rows are computed for each, whether there is one or many. For many rows weights are decoded
 * once, QC_DECODED inputs at a time, into up to 16 KiB on the stack.
 */
#ifndef QC_GEMM_WNF32_H
#define QC_GEMM_WNF32_H

#include "qc_low_bit.h"

#define QC_DECODED 128

typedef struct {
    const float *input;
    size_t input_stride; /* elements from row to row */
    const uint32_t *weight;
    const float *scale;
    const uint8_t *zero; /* NULL: all are `common_zero` */
    int32_t common_zero;
    const float *table; /* [16] or NULL */
    const float *bias; /* [columns] or NULL */
    size_t rows, columns, depth, block;
    size_t bits;
    size_t block_columns;
    float *out;
    size_t out_stride; /* elements from row to row */
} qc_gemm_wnf32_args;

void qc_gemm_wnf32_portable(const qc_gemm_wnf32_args *args, size_t begin, size_t end);
void qc_gemm_wnf32_avx2(const qc_gemm_wnf32_args *args, size_t begin, size_t end);
void qc_gemm_wnf32_avx512(const qc_gemm_wnf32_args *args, size_t begin, size_t end);
void qc_gemm_wnf32_neon(const qc_gemm_wnf32_args *args, size_t begin, size_t end);

#endif
