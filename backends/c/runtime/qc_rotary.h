/* Rotary embedding of heads x = [low, high] with tables of whole heads, each half of which has its own numbers.
 *
 *   out[i]            = fma(low[i], cos[i], -(high[i] * sin[i]))                    for i < depth / 2
 *   out[depth / 2 + i] = fma(low[i], sin[depth / 2 + i], high[i] * cos[depth / 2 + i])
 *
 * `out` overlaps nothing that is read.
 *
 * Tasks are rows (batch, position), position = task % length.
 */
#ifndef QC_ROTARY_H
#define QC_ROTARY_H

#include "qc_lanes.h"

typedef struct {
    const float *input;
    size_t input_batch, input_row, input_head; /* steps in elements */
    const float *cos, *sin;
    size_t table_batch, table_row; /* steps in elements; 0 where tables are shared */
    size_t length, heads, depth;
    float *out;
    size_t out_batch, out_row, out_head;
} qc_rotary_args;

void qc_rotary_portable(const qc_rotary_args *args, size_t begin, size_t end);

#endif
