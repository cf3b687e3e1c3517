/* The meaning of qc_gemm_i8, element by element. */
#include "qc_gemm_i8.h"

void qc_gemm_i8_portable(const qc_gemm_i8_args *args, size_t begin, size_t end) {
    const size_t columns = args->block_columns, depth = args->block_depth;
    const size_t runs = (args->depth + depth - 1) / depth;
    const size_t panel = args->taps * runs * columns * depth;
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    for (size_t m = begin; m < end; ++m) {
        const qc_act *input = args->input + m / args->width * args->outer_stride + m % args->width * args->inner_stride;
        char *out = (char *)args->out + m * args->out_stride * bytes;
        for (size_t n = 0; n < args->columns; ++n) {
            const int8_t *weight = args->weight + n / columns * panel + n % columns * depth;
            int32_t sum = 0;
            for (size_t t = 0; t < args->taps; ++t) {
                const qc_act *row = input + (args->offsets ? args->offsets[t] : 0);
                for (size_t k = 0; k < args->depth; ++k)
                    sum += (int32_t)row[k] * weight[(t * runs + k / depth) * columns * depth + k % depth];
            }
            qc_finish_one(&args->epilogue, sum, m, n, out + n * bytes);
        }
    }
}
