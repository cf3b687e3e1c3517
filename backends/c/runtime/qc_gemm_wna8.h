/* Matrix product of 8-bit activations and weights of 2, 3, 4 or 8 bits, both with a scale for every block of inputs.
 *
 *   sum(m, n, g)   = sum over k of block g of  input[m][k] * code[n][k]  -  zero[n][g] * input_sum[m][g]     in int32
 *   acc            = bias[n], or 0
 *   acc            = fmaf(float(sum(m, n, g)), input_scale[m][g] * scale[n][g], acc)     for g = 0, 1, ...
 *   out[m][n]      = acc
 *
 * Codes of activations are int8 from -127 to 127, the same on all processors, with `input_sum` the sums of them by
 * block; codes of weights are unsigned. A block may be the whole row; the last one may be shorter. Ternary weights are
 * codes 0, 1, 2 of two bits with zero point 1.
 *
 * Weights lie as qc_low_bit.h says, [ceil(n / C)] panels of C = block_columns outputs, runs of D = block_depth inputs,
 * words of 8 bits. Scales and zero points are [ceil(n / C)][blocks][C]; what stands there for missing outputs is
 * finite. Activations may be read up to QC_SLACK bytes behind their end. int32 holds every sum up to depth = 65536.
 *
 * Tasks are panels: all rows are computed for each, whether there is one or many. For many rows codes are unpacked
 * once, some inputs at a time, into up to 32 KiB on the stack (40 KiB with AMX, 12 KiB on ARM, 4 KiB without sdot; with
 * smmla another 72 KiB for activations that are gathered).
 */
#ifndef QC_GEMM_WNA8_H
#define QC_GEMM_WNA8_H

#include "qc_low_bit.h"

typedef struct {
    const int8_t *input;
    size_t input_stride;      /* elements from row to row */
    const float *input_scale; /* [rows][blocks] */
    const int32_t *input_sum; /* [rows][blocks] */
    const uint8_t *weight;
    const float *scale;
    const uint8_t *zero; /* NULL: all are `common_zero` */
    int32_t common_zero;
    const float *bias; /* [columns] or NULL */
    size_t rows, columns, depth, block;
    size_t bits;
    size_t block_columns, block_depth;
    float *out;
    size_t out_stride; /* elements from row to row */
} qc_gemm_wna8_args;

void qc_gemm_wna8_portable(const qc_gemm_wna8_args *args, size_t begin, size_t end);
void qc_gemm_wna8_avx2(const qc_gemm_wna8_args *args, size_t begin, size_t end);
void qc_gemm_wna8_avx512(const qc_gemm_wna8_args *args, size_t begin, size_t end);
void qc_gemm_wna8_amx(const qc_gemm_wna8_args *args, size_t begin, size_t end);
void qc_gemm_wna8_neon(const qc_gemm_wna8_args *args, size_t begin, size_t end);
void qc_gemm_wna8_dotprod(const qc_gemm_wna8_args *args, size_t begin, size_t end);
void qc_gemm_wna8_i8mm(const qc_gemm_wna8_args *args, size_t begin, size_t end);

#endif
