/* Layer norm and root-mean-square norm of rows of codes, in integers.
 *
 *   n = width, centre = sum of q, or n * input_zero where not centred, c[i] = n * q[i] - centre,
 *   spread = n * sum of q^2 - 2 * centre * sum of q + centre^2 + epsilon, at least 1,
 *   root = floor(sqrt(spread * 4^t)), t such that it has 31 bits, inverse = floor(2^61 / root),
 *   a[i] = round(c[i] * inverse / 2^(41 - t)), which has 20 bits behind the point,
 *   out[i] = clip(round((a[i] * weight[i] + bias[i] * 2^20) / 2^shift) + zero_point, low, high)
 *
 * `round` goes half to even. Codes are as stored; n <= 32768, and weights and biases have 28 bits, so that 64 bits hold
 * everything. `out` may be `input`.
 *
 * Source: backends.reference.whole (layer_norm, rms_norm), equal bit for bit.
 *
 * Tasks are rows.
 */
#ifndef QC_NORM_I8_H
#define QC_NORM_I8_H

#include "qc_fixed.h"

typedef struct {
    const qc_act *input;
    size_t input_stride; /* elements from row to row */
    size_t width;
    int centred; /* layer norm; else root mean square */
    int32_t input_zero;
    int64_t epsilon;
    const int32_t *weight, *bias; /* [width] */
    int32_t shift;                /* 1 to 62 */
    int32_t zero_point, low, high;
    qc_act *out;
    size_t out_stride;
} qc_norm_i8_args;

void qc_norm_i8_portable(const qc_norm_i8_args *args, size_t begin, size_t end);

#endif
