/* Pools of floats in channels-last order.
 *
 *   maximum: out[m][c] = largest of rows[m * taps + t][c]; NaN if one is
 *   mean:    out[m][c] = (sum over t of rows[m * taps + t][c], one after the other from 0) / divisor
 *
 * Positions outside of the input are NULL and do not count. The divisor is `divisor`, or how many positions count where
 * that is 0. A window without any is minus infinity, or NaN.
 *
 * Tasks are positions m.
 */
#ifndef QC_POOL_F32_H
#define QC_POOL_F32_H

#include "qc_lanes.h"

typedef struct {
    const float *input;       /* what the pointers reach into */
    const float *const *rows; /* [position count * taps], each to `channels` floats, or NULL */
    size_t channels, taps;
    int mean;
    float divisor;
    float *out;
    size_t out_stride; /* elements from position to position */
} qc_pool_f32_args;

void qc_pool_f32_portable(const qc_pool_f32_args *args, size_t begin, size_t end);

#endif
