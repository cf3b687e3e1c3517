/* Pools of floats in channels-last order, over the pixels of each window that are inside of the image.
 *
 *   maximum: out[m][c] = largest of the pixels' channel c; NaN if one is
 *   mean:    out[m][c] = (sum of the pixels' channel c, line by line, one after the other from 0) / divisor
 *
 * The divisor is `divisor`, or the number of pixels where that is 0. A window without any is minus infinity, or NaN.
 *
 * Tasks are pixels of the result, through images, lines and pixels.
 */
#ifndef QC_POOL_F32_H
#define QC_POOL_F32_H

#include "qc_window.h"

typedef struct {
    const float *input;
    qc_window window;
    size_t channels;
    int mean;
    float divisor;
    float *out;
    size_t out_stride; /* elements from pixel to pixel */
} qc_pool_f32_args;

void qc_pool_f32_portable(const qc_pool_f32_args *args, size_t begin, size_t end);

#endif
