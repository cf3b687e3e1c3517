/* qc_softmax on every level. */
#include "qc_softmax.h"
#include "qc_exp_lanes.h"

static float qc_row_largest(const float *x, size_t width) {
    qc_lanes most = qc_splat(-INFINITY);
    size_t i = 0;
    for (; i + QC_LANES <= width; i += QC_LANES) most = qc_at_least(most, qc_load(x + i));
    if (i < width) most = qc_at_least(most, qc_load_some(x + i, width - i, -INFINITY));
    return qc_largest(most);
}

/* Writes e where `out` is not NULL; returns the total. */
QC_INLINE float qc_exponentials(const float *x, size_t width, float largest, float *out) {
    const qc_lanes level = qc_splat(largest);
    qc_lanes sum = qc_splat(0.0f);
    size_t i = 0;
    for (; i + QC_LANES <= width; i += QC_LANES) {
        const qc_lanes e = qc_exp_lanes(qc_minus(qc_load(x + i), level));
        sum = qc_plus(sum, e);
        if (out) qc_store(out + i, e);
    }
    if (i < width) {
        const qc_lanes e = qc_exp_lanes(qc_minus(qc_load_some(x + i, width - i, -INFINITY), level));
        sum = qc_plus(sum, e);
        if (out) qc_store_some(out + i, width - i, e);
    }
    return qc_total(sum);
}

void qc_softmax_portable(const qc_softmax_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        const float *x = args->input + m * args->input_stride;
        float *out = args->out + m * args->out_stride;
        const float largest = qc_row_largest(x, args->width);
        if (args->logarithm) {
            const float logarithm = qc_log(qc_exponentials(x, args->width, largest, NULL));
            for (size_t i = 0; i < args->width; ++i) out[i] = (x[i] - largest) - logarithm;
        } else {
            const float inverse = 1.0f / qc_exponentials(x, args->width, largest, out);
            qc_row_times(out, args->width, inverse);
        }
    }
}
