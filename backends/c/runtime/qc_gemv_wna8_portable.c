/* The meaning of qc_gemv_wna8, element by element. */
#include "qc_gemv_wna8.h"

static int32_t block_sum(const qc_gemv_wna8_args *args, const uint8_t *codes, size_t groups, const int8_t *input,
                         size_t count, size_t column) {
    int32_t sum = 0;
    for (size_t k = 0; k < count; ++k) {
        int32_t code = 0;
        for (size_t i = 0; i < args->planes; ++i) {
            const unsigned both = codes[(i * groups + k / 4) * 16 + column % 16];
            code += (int32_t)(both >> (column / 16 * 4 + k % 4) & 1u) << i;
        }
        sum += input[k] * code;
    }
    return sum * args->step;
}

void qc_gemv_wna8_portable(const qc_gemv_wna8_args *args, size_t begin, size_t end) {
    const size_t width = QC_GEMV_PANEL;
    const qc_gemv_division d = qc_gemv_divide(args);
    for (size_t m = 0; m < args->rows; ++m) {
        for (size_t n = begin * width; n < end * width && n < args->columns; ++n) {
            const uint8_t *panel = args->weight + n / width * qc_gemv_panel_bytes(args, &d);
            float acc = args->bias ? args->bias[n] : 0.0f;
            for (size_t g = 0; g < d.blocks; ++g) {
                const size_t first = g * args->block, left = args->depth - first;
                const size_t at = (n / width * d.blocks + g) * width + n % width;
                const int32_t zero = args->zero ? args->zero[at] : args->common_zero;
                const int32_t sum = block_sum(args, panel + g * d.full * args->planes * 16,
                                              g + 1 < d.blocks ? d.full : d.last,
                                              args->input + m * args->input_stride + first,
                                              left < args->block ? left : args->block, n % width);
                const int32_t total = sum - zero * args->input_sum[m * d.blocks + g];
                acc = fmaf((float)total, args->input_scale[m * d.blocks + g] * args->scale[at], acc);
            }
            args->out[m * args->out_stride + n] = acc;
        }
    }
}
