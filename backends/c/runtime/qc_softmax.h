/* Softmax of rows, or its logarithm.
 *
 *   e[i] = exp(x[i] - largest), total = sum of e, out[i] = e[i] * (1 / total); logarithmic: (x[i] - largest) - log(total)
 *
 * The sum is made in 16 lanes, of elements i = lane mod 16, which are added as qc_total says. `out` may be `input`. A row
 * of minus infinity is NaN.
 *
 * Tasks are rows.
 */
#ifndef QC_SOFTMAX_H
#define QC_SOFTMAX_H

#include "qc_lanes.h"

typedef struct {
    const float *input;
    size_t input_stride; /* elements from row to row */
    size_t width;
    int logarithm;
    float *out;
    size_t out_stride;
} qc_softmax_args;

void qc_softmax_portable(const qc_softmax_args *args, size_t begin, size_t end);

#endif
