/* Product of two matrices of codes that are both activations, in integers.
 *
 *   out[m][n] = clip(round(sum over k of (left[m][k] - left_zero) * (right[k][n] - right_zero) * mantissa / 2^shift)
 *                    + zero_point, low, high)
 *
 * with one mantissa and one shift. `round` goes half to even; all codes are as stored; depth <= 32768.
 *
 * Source: backends.reference.product.matmul, `fixed`, equal bit for bit.
 *
 * Tasks are rows m.
 */
#ifndef QC_MATMUL_I8_H
#define QC_MATMUL_I8_H

#include "qc_fixed.h"

typedef struct {
    const qc_act *left;
    size_t left_stride; /* elements from row to row */
    const qc_act *right;
    size_t depth_stride, column_stride; /* elements, one of them 1 */
    size_t depth, columns;
    int32_t left_zero, right_zero;
    qc_fixed fixed;
    qc_act *out;
    size_t out_stride;
} qc_matmul_i8_args;

void qc_matmul_i8_portable(const qc_matmul_i8_args *args, size_t begin, size_t end);

#endif
