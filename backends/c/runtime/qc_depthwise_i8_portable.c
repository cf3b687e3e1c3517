/* The meaning of qc_depthwise_i8, element by element. */
#include "qc_depthwise_i8.h"

/* Where channel c of a panel stands in it. */
static size_t place(const qc_depthwise_i8_args *args, size_t c) {
    if (args->block_lanes <= 1) return c;
    const size_t lane = args->block_columns / args->block_lanes, group = 16 / args->block_depth;
    return (c % lane / group * args->block_lanes + c / lane) * group + c % group;
}

void qc_depthwise_i8_portable(const qc_depthwise_i8_args *args, size_t begin, size_t end) {
    const size_t columns = args->block_columns, depth = args->block_depth, taps = args->taps;
    const size_t panel = (taps + depth - 1) / depth * columns * depth;
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    for (size_t m = begin; m < end; ++m) {
        const qc_act *input = args->input + m / args->width * args->outer_stride + m % args->width * args->inner_stride;
        char *out = (char *)args->out + m * args->out_stride * bytes;
        for (size_t c = 0; c < args->channels; ++c) {
            const int8_t *weight = args->weight + c / columns * panel + place(args, c % columns) * depth;
            int32_t sum = 0;
            for (size_t t = 0; t < taps; ++t) {
                const qc_act *pixel = input + args->offsets[t];
                sum += (int32_t)pixel[c] * weight[t / depth * columns * depth + t % depth];
            }
            qc_finish_one(&args->epilogue, sum, m, c, out + c * bytes);
        }
    }
}
