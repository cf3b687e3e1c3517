/* Integer matrix product, linear layers and convolutions alike.
 *
 *   out[m][n] = finish(sum over t < taps, k < depth of  a(m, t)[k] * w[n][t][k])
 *
 * a(m, t) is `rows[m * taps + t]` when a table of pointers is given (convolutions in channels-last order: one pointer
 * for every position of the window, to a row of zero points where it lies outside), else `input + m * input_stride`
 * with taps = 1.
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
    size_t input_stride;       /* elements from row to row */
    const qc_act *const *rows; /* NULL, or [row count * taps] */
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
