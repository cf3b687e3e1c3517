/* The meaning of qc_gemm_bits, element by element. */
#include "qc_bits.h"
#include "qc_gemm_bits.h"

/* Word `at` of row `row` of the packed weights. */
static uint64_t weight_word(const qc_gemm_bits_args *args, size_t row, size_t at) {
    const size_t columns = args->block_columns, bytes = args->block_depth;
    const size_t words = args->taps * qc_bit_words(args->depth);
    const size_t runs = ((args->chained ? words + words % 2 : words) * 8 + bytes - 1) / bytes;
    const uint8_t *place = args->weight + row / columns * runs * columns * bytes + row % columns * bytes;
    uint64_t word = qc_bit_word(place + at * 8 / bytes * columns * bytes + at * 8 % bytes);
    return args->chained && at % 2 ? word ^ weight_word(args, row, at - 1) : word;
}

/* The sum of p(bit j of a) * p(bit i of w): of all `terms` signs, or of the bits that are set. */
static int32_t plane_sum(const qc_gemm_bits_args *args, size_t m, size_t n, size_t j, size_t i) {
    const uint8_t *input = args->input + j * args->plane_stride + m / args->width * args->outer_stride +
                           m % args->width * args->inner_stride;
    const size_t words = qc_bit_words(args->depth);
    const size_t row = (n / QC_BITS_GROUP * args->weight_planes + i) * QC_BITS_GROUP + n % QC_BITS_GROUP;
    int32_t ones_a = 0, ones_w = 0, both = 0;
    for (size_t t = 0; t < args->taps; ++t)
        for (size_t word = 0; word < words; ++word) {
            const uint64_t a = qc_bit_word(input + (args->offsets ? args->offsets[t] : 0) + word * 8);
            const uint64_t w = weight_word(args, row, t * words + word);
            ones_a += qc_popcount(a);
            ones_w += qc_popcount(w);
            both += qc_popcount(a & w);
        }
    if (args->input_signs && args->weight_signs)
        return (int32_t)(args->taps * args->depth) - 2 * ones_a - 2 * ones_w + 4 * both;
    if (args->input_signs) return ones_w - 2 * both;
    return args->weight_signs ? ones_a - 2 * both : both;
}

static void finish_scaled(const qc_gemm_bits_args *args, size_t m, size_t n, float *out) {
    const size_t wide = (args->columns + QC_BITS_GROUP - 1) / QC_BITS_GROUP * QC_BITS_GROUP;
    float real = 0.0f;
    for (size_t i = 0; i < args->weight_planes; ++i)
        for (size_t j = 0; j < args->input_planes; ++j) {
            const float factor = args->weight_scale[i * wide + n] * args->input_scale[j];
            real = fmaf((float)plane_sum(args, m, n, j, i), factor, real);
        }
    *out = args->epilogue.finish == QC_REALS_BIASED ? real + args->epilogue.float_bias[n] : real;
}

void qc_gemm_bits_portable(const qc_gemm_bits_args *args, size_t begin, size_t end) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    for (size_t m = begin; m < end; ++m)
        for (size_t n = 0; n < args->columns; ++n) {
            char *out = (char *)args->out + (m * args->out_stride + n) * bytes;
            int32_t total = 0;
            for (size_t i = 0; !args->weight_scale && i < args->weight_planes; ++i)
                for (size_t j = 0; j < args->input_planes; ++j)
                    total += args->input_factor[j] * args->weight_factor[i] * plane_sum(args, m, n, j, i);
            if (args->weight_scale)
                finish_scaled(args, m, n, (float *)(void *)out);
            else
                qc_finish_one(&args->epilogue, total, m, n, out);
        }
}
