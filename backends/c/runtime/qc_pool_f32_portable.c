/* qc_pool_f32 on every level: results are folded where they will stand. */
#include "qc_pool_f32.h"

static void qc_most(const float *restrict x, float *restrict out, size_t channels) {
    for (size_t c = 0; c < channels; ++c) out[c] = out[c] < x[c] || x[c] != x[c] ? x[c] : out[c];
}

static void qc_add(const float *restrict x, float *restrict out, size_t channels) {
    for (size_t c = 0; c < channels; ++c) out[c] = out[c] + x[c];
}

void qc_pool_f32_portable(const qc_pool_f32_args *args, size_t begin, size_t end) {
    const size_t channels = args->channels;
    for (size_t m = begin; m < end; ++m) {
        const qc_view view = qc_view_of(&args->window, m);
        float *out = args->out + m * args->out_stride;
        for (size_t c = 0; c < channels; ++c) out[c] = args->mean ? 0.0f : -INFINITY;
        for (size_t y = view.begin[0]; y < view.end[0]; ++y) {
            for (size_t x = view.begin[1]; x < view.end[1]; ++x) {
                const float *pixel = args->input + view.start + (ptrdiff_t)y * view.step[0] + (ptrdiff_t)x * view.step[1];
                (args->mean ? qc_add : qc_most)(pixel, out, channels);
            }
        }
        const float divisor = args->divisor != 0.0f ? args->divisor : (float)qc_view_count(&view);
        for (size_t c = 0; c < channels && args->mean; ++c) out[c] = out[c] / divisor;
    }
}
