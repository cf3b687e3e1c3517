/* qc_softmax on every level. */
#include "qc_softmax.h"
#include "qc_math.h"

static float qc_row_largest(const float *x, size_t width) {
    qc_lanes most = qc_splat(-INFINITY);
    size_t i = 0;
    for (; i + QC_LANES <= width; i += QC_LANES) most = qc_at_least(most, qc_load(x + i));
    if (i < width) most = qc_at_least(most, qc_load_some(x + i, width - i, -INFINITY));
    return qc_largest(most);
}

void qc_softmax_portable(const qc_softmax_args *args, size_t begin, size_t end) {
    const size_t width = args->width;
    for (size_t m = begin; m < end; ++m) {
        const float *x = args->input + m * args->input_stride;
        float *out = args->out + m * args->out_stride;
        const float largest = qc_row_largest(x, width);
        if (args->logarithm) {
            qc_lanes sum = qc_splat(0.0f);
            for (size_t i = 0; i < width; i += QC_LANES) {
                float some[QC_LANES];
                const size_t left = width - i;
                qc_store(some, left < QC_LANES ? qc_load_some(x + i, left, -INFINITY) : qc_load(x + i));
                for (size_t j = 0; j < QC_LANES; ++j) some[j] = qc_exp(some[j] - largest);
                sum = qc_plus(sum, qc_load(some));
            }
            const float logarithm = qc_log(qc_total(sum));
            for (size_t i = 0; i < width; ++i) out[i] = (x[i] - largest) - logarithm;
            continue;
        }
        for (size_t i = 0; i < width; ++i) out[i] = qc_exp(x[i] - largest);
        const float total = qc_row_sum(out, width);
        for (size_t i = 0; i < width; ++i) out[i] = out[i] / total;
    }
}
