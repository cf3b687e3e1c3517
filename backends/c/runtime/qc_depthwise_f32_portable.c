/* qc_depthwise_f32, 64 channels at a time. */
#include "qc_depthwise_f32.h"

#define QC_RUN_LANES 4

/* `count` of lanes is a constant; `left` channels are written. */
QC_INLINE void qc_channels(const qc_depthwise_f32_args *args, const float *input, float *out, size_t c, size_t count,
                           size_t left) {
    qc_lanes sum[QC_RUN_LANES];
    QC_UNROLL for (size_t i = 0; i < count; ++i)
        sum[i] = args->bias ? qc_load(args->bias + c + QC_LANES * i) : qc_splat(0.0f);
    for (size_t t = 0; t < args->taps; ++t) {
        const float *x = input + args->offsets[t] + c, *w = args->weight + t * args->channels + c;
        QC_UNROLL for (size_t i = 0; i < count; ++i)
            sum[i] = qc_fma(qc_load(x + QC_LANES * i), qc_load(w + QC_LANES * i), sum[i]);
    }
    QC_UNROLL for (size_t i = 0; i < count; ++i) {
        sum[i] = qc_at_most(qc_at_least(sum[i], qc_splat(args->low)), qc_splat(args->high));
        if (left < QC_LANES)
            qc_store_some(out + c, left, sum[i]);
        else
            qc_store(out + c + QC_LANES * i, sum[i]);
    }
}

void qc_depthwise_f32_portable(const qc_depthwise_f32_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        const float *input = args->input + m / args->width * args->outer_stride + m % args->width * args->inner_stride;
        float *out = args->out + m * args->out_stride;
        size_t c = 0;
        for (; c + QC_RUN_LANES * QC_LANES <= args->channels; c += QC_RUN_LANES * QC_LANES)
            qc_channels(args, input, out, c, QC_RUN_LANES, QC_LANES);
        for (; c < args->channels; c += QC_LANES) qc_channels(args, input, out, c, 1, args->channels - c);
    }
}
