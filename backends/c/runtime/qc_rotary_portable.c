/* qc_rotary on every level. */
#include "qc_rotary.h"

static void qc_head(const float *restrict x, const float *restrict cosine, const float *restrict sine,
                    float *restrict out, size_t half) {
    for (size_t i = 0; i < half; ++i) {
        out[i] = fmaf(x[i], cosine[i], -(x[half + i] * sine[i]));
        out[half + i] = fmaf(x[i], sine[half + i], x[half + i] * cosine[half + i]);
    }
}

void qc_rotary_portable(const qc_rotary_args *args, size_t begin, size_t end) {
    for (size_t task = begin; task < end; ++task) {
        const size_t batch = task / args->length, position = task % args->length;
        const size_t table = batch * args->table_batch + position * args->table_row;
        const float *x = args->input + batch * args->input_batch + position * args->input_row;
        float *out = args->out + batch * args->out_batch + position * args->out_row;
        for (size_t h = 0; h < args->heads; ++h)
            qc_head(x + h * args->input_head, args->cos + table, args->sin + table, out + h * args->out_head,
                    args->depth / 2);
    }
}
