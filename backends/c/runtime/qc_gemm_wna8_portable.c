/* The meaning of qc_gemm_wna8, element by element. */
#include "qc_gemm_wna8.h"

static int32_t block_sum(const qc_gemm_wna8_args *args, const uint8_t *chunks, size_t chunk, size_t chunk_bytes,
                         const int8_t *input, size_t count, size_t column) {
    const size_t columns = args->block_columns, depth = args->block_depth;
    int32_t sum = 0;
    for (size_t k = 0; k < count; ++k) {
        const size_t at = k % chunk, lane = column * depth + at % depth;
        const unsigned code =
            qc_code_at(chunks + k / chunk * chunk_bytes, (unsigned)args->bits, 8, columns * depth, at / depth, lane);
        sum += input[k] * (int32_t)code;
    }
    return sum;
}

void qc_gemm_wna8_portable(const qc_gemm_wna8_args *args, size_t begin, size_t end) {
    const size_t width = args->block_columns;
    const qc_division d = qc_divide(args->depth, args->block, (unsigned)args->bits, width, args->block_depth);
    for (size_t m = 0; m < args->rows; ++m) {
        for (size_t n = begin * width; n < end * width && n < args->columns; ++n) {
            const uint8_t *panel = args->weight + n / width * qc_panel_bytes(&d);
            float acc = args->bias ? args->bias[n] : 0.0f;
            for (size_t g = 0; g < d.blocks; ++g) {
                const size_t first = g * args->block, left = args->depth - first;
                const size_t at = (n / width * d.blocks + g) * width + n % width;
                const int32_t zero = args->zero ? args->zero[at] : args->common_zero;
                const int32_t sum = block_sum(args, panel + g * d.full * d.bytes, d.chunk, d.bytes,
                                              args->input + m * args->input_stride + first,
                                              left < args->block ? left : args->block, n % width);
                const int32_t total = sum - zero * args->input_sum[m * d.blocks + g];
                acc = fmaf((float)total, args->input_scale[m * d.blocks + g] * args->scale[at], acc);
            }
            args->out[m * args->out_stride + n] = acc;
        }
    }
}
