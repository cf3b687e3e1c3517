/* Softmax of rows of codes, in integers.
 *
 *   e[i] = table[largest q - q[i]], part = floor(mantissa * 2^37 / sum of e),
 *   out[i] = clip(round(e[i] * part / 2^shift) + zero_point, low, high)
 *
 * The table holds exp(-d * scale) * 2^31 for differences d; what a row is parted into is mantissa / 2^(shift - 37).
 * `round` goes half to even; all codes are as stored; width <= 32768. `out` may be `input`.
 *
 * Source: backends.reference.whole.softmax, equal bit for bit.
 *
 * Tasks are rows.
 */
#ifndef QC_SOFTMAX_I8_H
#define QC_SOFTMAX_I8_H

#include "qc_fixed.h"

typedef struct {
    const qc_act *input;
    size_t input_stride; /* elements from row to row */
    size_t width;
    const uint32_t *table; /* [256] */
    int64_t mantissa;      /* up to 2^24 */
    int32_t shift;         /* 1 to 62 */
    int32_t zero_point, low, high;
    qc_act *out;
    size_t out_stride;
} qc_softmax_i8_args;

void qc_softmax_i8_portable(const qc_softmax_i8_args *args, size_t begin, size_t end);

#endif
