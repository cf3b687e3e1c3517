/* Brings a matrix of activations into the order of the weights of qc_gemm_f32.
 *
 *   out[n / 16][k][n % 16] = input[k * depth_stride + n * column_stride] for k < depth, n < columns, 0 for missing n
 *
 * Tasks are panels of 16 columns.
 */
#ifndef QC_PACK_F32_H
#define QC_PACK_F32_H

#include "qc_lanes.h"

typedef struct {
    const float *input;
    size_t depth_stride, column_stride; /* elements */
    size_t depth, columns;
    float *out; /* [ceil(columns / 16)][depth][16] */
} qc_pack_f32_args;

void qc_pack_f32_portable(const qc_pack_f32_args *args, size_t begin, size_t end);

#endif
