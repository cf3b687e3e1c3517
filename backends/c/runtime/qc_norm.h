/* Layer norm and root-mean-square norm of rows.
 *
 *   layer: mean = sum(x) / width, variance = sum((x - mean)^2) / width, r = 1 / sqrt(variance + eps),
 *          out[i] = fma((x[i] - mean) * r, weight[i], bias[i])
 *   root mean square: r = 1 / sqrt(sum(x^2) / width + eps), out[i] = (x[i] * r) * weight[i]
 *
 * Sums are made in 16 lanes, of elements i = lane mod 16, squares by fused multiply-adds, and added as qc_total says.
 * `out` may be `input`.
 *
 * Tasks are rows.
 */
#ifndef QC_NORM_H
#define QC_NORM_H

#include "qc_lanes.h"

typedef struct {
    const float *input;
    size_t input_stride; /* elements from row to row */
    size_t width;
    int centred; /* layer norm; else root mean square */
    float eps;
    const float *weight; /* [width], NULL for ones */
    const float *bias;   /* [width], NULL for zeros; layer norm only */
    float *out;
    size_t out_stride;
} qc_norm_args;

void qc_norm_portable(const qc_norm_args *args, size_t begin, size_t end);

#endif
