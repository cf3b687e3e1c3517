/* Pools of codes in channels-last order, over the pixels of each window that are inside of the image.
 *
 *   QC_POOL_MAX:   clip(largest q, low, high)
 *   QC_POOL_MEAN:  clip(round((sum of (float(q) - input_zero) * input_scale) / divisor / scale + zero_point) + shift,
 *                       low, high)
 *   QC_POOL_TOTAL: clip(round(float(sum of (q - input_zero)) * factor) + zero_point, low, high), the sum in int32
 *   QC_POOL_FIXED: clip(round(sum of (q - input_zero) * mantissa / 2^shift) + zero_point, low, high), in integers
 *
 * for every channel of every window. Float sums go line by line, one after the other from 0; the divisor is `divisor`, or
 * the number of pixels where that is 0. All codes, zero points and limits are as stored; `round` goes half to even.
 *
 * Source: backends.reference.pooling (average, global_mean) and .moving (carry), equal bit for bit.
 *
 * Tasks are pixels of the result, through images, lines and pixels.
 */
#ifndef QC_POOL_I8_H
#define QC_POOL_I8_H

#include "qc_fixed.h"
#include "qc_window.h"

typedef enum { QC_POOL_MAX, QC_POOL_MEAN, QC_POOL_TOTAL, QC_POOL_FIXED } qc_pool_kind;

typedef struct {
    const qc_act *input;
    qc_window window;
    size_t channels;
    qc_pool_kind kind;
    float input_zero, input_scale, divisor, scale; /* input_scale, divisor and scale for QC_POOL_MEAN only */
    float factor;                                  /* QC_POOL_TOTAL only */
    float zero_point, low, high;                   /* but for QC_POOL_FIXED */
    float shift;                                   /* QC_POOL_MEAN, whose zero point is a code: stored less code */
    qc_fixed fixed;                                /* QC_POOL_FIXED only */
    int32_t whole_zero;                            /* input_zero, for it */
    qc_act *out;
    size_t out_stride; /* elements from pixel to pixel */
} qc_pool_i8_args;

void qc_pool_i8_portable(const qc_pool_i8_args *args, size_t begin, size_t end);

#endif
