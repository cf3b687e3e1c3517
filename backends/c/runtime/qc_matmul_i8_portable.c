/* qc_matmul_i8 on every level: sums over inputs that lie side by side, else many columns at a time. */
#include "qc_matmul_i8.h"

#define QC_RUN 64

static int32_t qc_dot(const qc_matmul_i8_args *args, const qc_act *left, const qc_act *right) {
    const int32_t one = args->left_zero, other = args->right_zero;
    int32_t sum = 0;
    for (size_t k = 0; k < args->depth; ++k) sum += (left[k] - one) * (right[k] - other);
    return sum;
}

static void qc_run(
    const qc_matmul_i8_args *args, const qc_act *left, const qc_act *right, size_t count, int32_t *sums) {
    for (size_t j = 0; j < count; ++j) sums[j] = 0;
    for (size_t k = 0; k < args->depth; ++k, right += args->depth_stride) {
        const int32_t x = left[k] - args->left_zero, other = args->right_zero;
        for (size_t j = 0; j < count; ++j) sums[j] += x * (right[j] - other);
    }
}

void qc_matmul_i8_portable(const qc_matmul_i8_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        const qc_act *left = args->left + m * args->left_stride;
        qc_act *out = args->out + m * args->out_stride;
        if (args->depth_stride == 1) {
            for (size_t n = 0; n < args->columns; ++n) {
                const int32_t sum = qc_dot(args, left, args->right + n * args->column_stride);
                out[n] = (qc_act)qc_fixed_code(&args->fixed, sum, 0);
            }
            continue;
        }
        for (size_t n = 0; n < args->columns; n += QC_RUN) {
            int32_t sums[QC_RUN];
            const size_t count = args->columns - n < QC_RUN ? args->columns - n : QC_RUN;
            qc_run(args, left, args->right + n, count, sums);
            for (size_t j = 0; j < count; ++j) out[n + j] = (qc_act)qc_fixed_code(&args->fixed, sums[j], 0);
        }
    }
}
