/* qc_norm on every level. */
#include "qc_norm.h"

/* sum of (x - centre)^2 */
static float qc_squares(const float *x, size_t width, float centre) {
    const qc_lanes mean = qc_splat(centre);
    qc_lanes sum = qc_splat(0.0f);
    size_t i = 0;
    for (; i + QC_LANES <= width; i += QC_LANES) {
        const qc_lanes apart = qc_minus(qc_load(x + i), mean);
        sum = qc_fma(apart, apart, sum);
    }
    if (i < width) {
        const qc_lanes apart = qc_minus(qc_load_some(x + i, width - i, centre), mean);
        sum = qc_fma(apart, apart, sum);
    }
    return qc_total(sum);
}

/* Which of weight and bias there are is told apart outside of the loop over elements. */
QC_INLINE void qc_scaled(const qc_norm_args *args, const float *x, float *out, float mean, float r, int weight, int bias) {
    for (size_t i = 0; i < args->width; ++i) {
        const float y = (x[i] - mean) * r;
        out[i] = bias ? fmaf(y, weight ? args->weight[i] : 1.0f, args->bias[i]) : weight ? y * args->weight[i] : y;
    }
}

void qc_norm_portable(const qc_norm_args *args, size_t begin, size_t end) {
    const float count = (float)args->width;
    for (size_t m = begin; m < end; ++m) {
        const float *x = args->input + m * args->input_stride;
        float *out = args->out + m * args->out_stride;
        const float mean = args->centred ? qc_row_sum(x, args->width) / count : 0.0f;
        const float r = 1.0f / sqrtf(qc_squares(x, args->width, mean) / count + args->eps);
        if (args->bias && args->weight)
            qc_scaled(args, x, out, mean, r, 1, 1);
        else if (args->bias)
            qc_scaled(args, x, out, mean, r, 0, 1);
        else if (args->weight)
            qc_scaled(args, x, out, mean, r, 1, 0);
        else
            qc_scaled(args, x, out, mean, r, 0, 0);
    }
}
