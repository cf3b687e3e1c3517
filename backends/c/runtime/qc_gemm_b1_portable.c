/* The meaning of qc_gemm_b1, element by element. */
#include "qc_bits.h"
#include "qc_gemm_b1.h"

static uint64_t weight_word(const qc_gemm_b1_args *args, size_t n, size_t at) {
    const size_t columns = args->block_columns, bytes = args->block_depth;
    const size_t words = args->taps * qc_bit_words(args->depth);
    const size_t runs = ((args->chained ? words + words % 2 : words) * 8 + bytes - 1) / bytes;
    const uint8_t *row = args->weight + n / columns * runs * columns * bytes + n % columns * bytes;
    uint64_t word = qc_bit_word(row + at * 8 / bytes * columns * bytes + at * 8 % bytes);
    return args->chained && at % 2 ? word ^ weight_word(args, n, at - 1) : word;
}

static int32_t sum_of_signs(const qc_gemm_b1_args *args, size_t m, size_t n) {
    const size_t words = qc_bit_words(args->depth);
    const uint8_t *input = args->input + m / args->width * args->outer_stride + m % args->width * args->inner_stride;
    int32_t different = 0;
    for (size_t t = 0; t < args->taps; ++t) {
        const uint8_t *row = input + (args->offsets ? args->offsets[t] : 0);
        for (size_t word = 0; word < words; ++word)
            different += qc_popcount(qc_bit_word(row + word * 8) ^ weight_word(args, n, t * words + word));
    }
    int32_t sum = (int32_t)(args->taps * args->depth) - 2 * different;
    return args->pattern ? sum - args->correction[args->pattern[m] * args->columns + n] : sum;
}

void qc_gemm_b1_portable(const qc_gemm_b1_args *args, size_t begin, size_t end) {
    const size_t bytes = args->threshold ? 1 : qc_result_bytes(args->epilogue.finish);
    for (size_t m = begin; m < end; ++m) {
        uint8_t *out = (uint8_t *)args->out + m * args->out_stride * bytes;
        if (args->threshold) memset(out, 0, qc_bit_words(args->columns) * 8);
        for (size_t n = 0; n < args->columns; ++n) {
            int32_t sum = sum_of_signs(args, m, n);
            if (args->threshold)
                out[n / 8] |= (uint8_t)(((sum < args->threshold[n]) ^ (args->flip[n / 8] >> n % 8 & 1)) << n % 8);
            else
                qc_finish_one(&args->epilogue, sum, m, n, out + n * bytes);
        }
    }
}
