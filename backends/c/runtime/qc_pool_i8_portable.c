/* qc_pool_i8 on every level, 64 channels at a time. */
#include "qc_pool_i8.h"

#define QC_RUN 64

/* `fold` for every pixel of the window, whose channels from c on are x. */
#define QC_EACH_PIXEL(fold)                                                                                            \
    for (size_t y = view->begin[0]; y < view->end[0]; ++y) {                                                           \
        for (size_t p = view->begin[1]; p < view->end[1]; ++p) {                                                       \
            const qc_act *x = args->input + view->start + (ptrdiff_t)y * view->step[0] + (ptrdiff_t)p * view->step[1]; \
            x += c;                                                                                                    \
            for (size_t i = 0; i < QC_RUN; ++i) fold;                                                                  \
        }                                                                                                              \
    }

static void qc_most(const qc_pool_i8_args *args, const qc_view *view, size_t c, size_t count, qc_act *out) {
    const qc_act low = (qc_act)args->low, high = (qc_act)args->high;
    qc_act most[QC_RUN];
    memset(most, (uint8_t)low, sizeof most);
    QC_EACH_PIXEL(most[i] = x[i] > most[i] ? x[i] : most[i])
    for (size_t i = 0; i < count; ++i) out[i] = most[i] > high ? high : most[i];
}

static void qc_means(const qc_pool_i8_args *args, const qc_view *view, size_t c, size_t count, qc_act *out) {
    const float zero = args->input_zero, scale = args->input_scale;
    const float divisor = args->divisor != 0.0f ? args->divisor : (float)qc_view_count(view);
    float sum[QC_RUN] = {0.0f};
    QC_EACH_PIXEL(sum[i] += ((float)x[i] - zero) * scale)
    for (size_t i = 0; i < count; ++i)
        out[i] =
            (qc_act)qc_place(sum[i] / divisor / args->scale + args->zero_point, args->shift, args->low, args->high);
}

static void qc_totals(const qc_pool_i8_args *args, const qc_view *view, size_t c, size_t count, qc_act *out) {
    const int fixed = args->kind == QC_POOL_FIXED;
    const int32_t zero = fixed ? args->whole_zero : (int32_t)args->input_zero;
    int32_t sum[QC_RUN] = {0};
    QC_EACH_PIXEL(sum[i] += x[i] - zero)
    for (size_t i = 0; fixed && i < count; ++i) out[i] = (qc_act)qc_fixed_code(&args->fixed, sum[i], 0);
    for (size_t i = 0; !fixed && i < count; ++i)
        out[i] = (qc_act)qc_place((float)sum[i] * args->factor, args->zero_point, args->low, args->high);
}

void qc_pool_i8_portable(const qc_pool_i8_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        const qc_view view = qc_view_of(&args->window, m);
        for (size_t c = 0; c < args->channels; c += QC_RUN) {
            const size_t left = args->channels - c, count = left < QC_RUN ? left : QC_RUN;
            qc_act *out = args->out + m * args->out_stride + c;
            if (args->kind == QC_POOL_MAX)
                qc_most(args, &view, c, count, out);
            else if (args->kind == QC_POOL_MEAN)
                qc_means(args, &view, c, count, out);
            else
                qc_totals(args, &view, c, count, out);
        }
    }
}
