/* qc_pool_f32 on every level. */
#include "qc_pool_f32.h"

void qc_pool_f32_portable(const qc_pool_f32_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        const float *const *rows = args->rows + m * args->taps;
        float *restrict out = args->out + m * args->out_stride;
        float count = 0.0f;
        for (size_t c = 0; c < args->channels; ++c) out[c] = args->mean ? 0.0f : -INFINITY;
        for (size_t t = 0; t < args->taps; ++t) {
            const float *restrict x = rows[t];
            if (!x) continue;
            count += 1.0f;
            if (args->mean)
                for (size_t c = 0; c < args->channels; ++c) out[c] = out[c] + x[c];
            else
                for (size_t c = 0; c < args->channels; ++c) out[c] = out[c] < x[c] || x[c] != x[c] ? x[c] : out[c];
        }
        const float divisor = args->divisor != 0.0f ? args->divisor : count;
        for (size_t c = 0; c < args->channels && args->mean; ++c) out[c] = out[c] / divisor;
    }
}
