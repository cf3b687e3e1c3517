/* The meaning of qc_gemm_wnf32, element by element. */
#include "qc_gemm_wnf32.h"

void qc_gemm_wnf32_portable(const qc_gemm_wnf32_args *args, size_t begin, size_t end) {
    const size_t width = args->block_columns;
    const unsigned bits = (unsigned)args->bits;
    const qc_division d = qc_divide(args->depth, args->block, bits, width, 1);
    for (size_t n = begin * width; n < end * width && n < args->columns; ++n) {
        const uint8_t *panel = (const uint8_t *)args->weight + n / width * qc_panel_bytes(&d);
        for (size_t m = 0; m < args->rows; ++m) {
            const float *input = args->input + m * args->input_stride;
            float acc = args->bias ? args->bias[n] : 0.0f;
            for (size_t k = 0; k < args->depth; ++k) {
                const size_t g = k / args->block, inside = k % args->block;
                const size_t at = (n / width * d.blocks + g) * width + n % width;
                const uint8_t *chunk = panel + (g * d.full + inside / d.chunk) * d.bytes;
                const int32_t code = (int32_t)qc_code_at(chunk, bits, 32, width, inside % d.chunk, n % width);
                const int32_t zero = args->zero ? args->zero[at] : args->common_zero;
                const float level = args->table ? args->table[code] : (float)(code - zero);
                acc = fmaf(input[k], level * args->scale[at], acc);
            }
            args->out[m * args->out_stride + n] = acc;
        }
    }
}
