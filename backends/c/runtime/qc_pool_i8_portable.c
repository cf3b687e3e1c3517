/* qc_pool_i8 on every level, 64 channels at a time. */
#include "qc_pool_i8.h"

#define QC_RUN 64

static void qc_most(const qc_pool_i8_args *args, const qc_act *const *rows, size_t c, size_t count, qc_act *out) {
    const int32_t low = (int32_t)args->low, high = (int32_t)args->high;
    int32_t least = QC_SIGNED_ACTIVATIONS ? -128 : 0;
    qc_act most[QC_RUN];
    least = low > least ? low : least;
    for (size_t i = 0; i < QC_RUN; ++i) most[i] = (qc_act)least;
    for (size_t t = 0; t < args->taps; ++t) {
        if (!rows[t]) continue;
        const qc_act *x = rows[t] + c;
        for (size_t i = 0; i < QC_RUN; ++i) most[i] = x[i] > most[i] ? x[i] : most[i];
    }
    for (size_t i = 0; i < count; ++i) out[i] = most[i] > high ? (qc_act)high : most[i];
}

static void qc_means(const qc_pool_i8_args *args, const qc_act *const *rows, size_t c, size_t count, qc_act *out) {
    float sum[QC_RUN] = {0.0f}, counted = 0.0f;
    for (size_t t = 0; t < args->taps; ++t) {
        if (!rows[t]) continue;
        const qc_act *x = rows[t] + c;
        for (size_t i = 0; i < QC_RUN; ++i) sum[i] += ((float)x[i] - args->input_zero) * args->input_scale;
        counted += 1.0f;
    }
    const float divisor = args->divisor != 0.0f ? args->divisor : counted;
    for (size_t i = 0; i < count; ++i)
        out[i] = (qc_act)qc_place(sum[i] / divisor / args->scale + args->zero_point, 0.0f, args->low, args->high);
}

static void qc_totals(const qc_pool_i8_args *args, const qc_act *const *rows, size_t c, size_t count, qc_act *out) {
    int32_t sum[QC_RUN] = {0};
    const int32_t zero = (int32_t)args->input_zero;
    for (size_t t = 0; t < args->taps; ++t) {
        if (!rows[t]) continue;
        const qc_act *x = rows[t] + c;
        for (size_t i = 0; i < QC_RUN; ++i) sum[i] += x[i] - zero;
    }
    for (size_t i = 0; i < count; ++i)
        out[i] = (qc_act)qc_place((float)sum[i] * args->factor, args->zero_point, args->low, args->high);
}

void qc_pool_i8_portable(const qc_pool_i8_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        const qc_act *const *rows = args->rows + m * args->taps;
        for (size_t c = 0; c < args->channels; c += QC_RUN) {
            const size_t left = args->channels - c, count = left < QC_RUN ? left : QC_RUN;
            qc_act *out = args->out + m * args->out_stride + c;
            if (args->kind == QC_POOL_MAX)
                qc_most(args, rows, c, count, out);
            else if (args->kind == QC_POOL_MEAN)
                qc_means(args, rows, c, count, out);
            else
                qc_totals(args, rows, c, count, out);
        }
    }
}
