/* Pools of codes in channels-last order, as backends.reference.pooling and .moving define them.
 *
 *   QC_POOL_MAX:   out[m][c] = clip(largest of rows[m * taps + t][c], low, high)
 *   QC_POOL_MEAN:  clip(round((sum over t of (float(q) - input_zero) * input_scale) / divisor / scale + zero_point), ...)
 *   QC_POOL_TOTAL: clip(round(float(sum over t of (q - input_zero)) * factor) + zero_point, low, high), the sum in int32
 *
 * Float sums go one after the other from 0. Positions outside of the input are NULL and do not count; the divisor is
 * `divisor`, or how many positions count where that is 0. All codes, zero points and limits are as stored.
 *
 * Tasks are positions m.
 */
#ifndef QC_POOL_I8_H
#define QC_POOL_I8_H

#include "qc_base.h"

typedef enum { QC_POOL_MAX, QC_POOL_MEAN, QC_POOL_TOTAL } qc_pool_kind;

typedef struct {
    const qc_act *input;       /* what the pointers reach into */
    const qc_act *const *rows; /* [position count * taps], each to `channels` codes, or NULL */
    size_t channels, taps;
    qc_pool_kind kind;
    float input_zero, input_scale, divisor, scale; /* input_scale, divisor and scale for QC_POOL_MEAN only */
    float factor;                                  /* QC_POOL_TOTAL only */
    float zero_point, low, high;
    qc_act *out;
    size_t out_stride; /* elements from position to position */
} qc_pool_i8_args;

void qc_pool_i8_portable(const qc_pool_i8_args *args, size_t begin, size_t end);

#endif
