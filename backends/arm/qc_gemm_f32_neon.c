/* qc_gemm_f32 in tiles of 4 x 16: for four inputs 64 multiply-adds by element, 4 loads of activations and 4 of four
 * registers of weights: 256 products in 75 instructions, 3.4 each. */
#include "qc_gemm_f32.h"

#include <arm_neon.h>

#define QC_ROWS 4

static void qc_keep(const qc_gemm_f32_args *args, size_t m, size_t n, float32x4_t sum) {
    const float32x4_t low = vdupq_n_f32(args->low), high = vdupq_n_f32(args->high);
    float *out = args->out + m * args->out_stride + n, all[4];
    /* Behind the last column anything may stand. */
    if (args->added) sum = vaddq_f32(sum, vld1q_f32(args->added + m * args->added_stride + n));
    sum = vbslq_f32(vcltq_f32(sum, low), low, sum);
    sum = vbslq_f32(vcgtq_f32(sum, high), high, sum);
    if (n + 4 <= args->columns) {
        vst1q_f32(out, sum);
        return;
    }
    vst1q_f32(all, sum);
    for (size_t i = 0; n + i < args->columns; ++i) out[i] = all[i];
}

#define QC_TERM(lane)                                                                                                  \
    {                                                                                                                  \
        const float32x4x4_t w = vld1q_f32_x4(weight);                                                                  \
        weight += QC_LANES;                                                                                            \
        QC_UNROLL for (size_t r = 0; r < rows; ++r) {                                                                  \
            QC_UNROLL for (size_t q = 0; q < 4; ++q) sum[r][q] = vfmaq_laneq_f32(sum[r][q], w.val[q], x[r], lane);     \
        }                                                                                                              \
    }

/* `rows` is a constant wherever this is called. */
QC_INLINE void qc_tile(const qc_gemm_f32_args *args, size_t m, size_t n, size_t rows) {
    float32x4_t sum[QC_ROWS][4], x[QC_ROWS];
    const float *weight = args->weight + n * args->taps * args->depth;
    QC_UNROLL for (size_t q = 0; q < 4; ++q) {
        /* Behind the last column anything may stand. */
        const float32x4_t start = args->bias ? vld1q_f32(args->bias + n + 4 * q) : vdupq_n_f32(0.0f);
        QC_UNROLL for (size_t r = 0; r < rows; ++r) sum[r][q] = start;
    }
    const float *row[QC_ROWS];
    QC_UNROLL for (size_t r = 0; r < rows; ++r) row[r] = qc_gemm_f32_row(args, m + r);
    for (size_t t = 0; t < args->taps; ++t) {
        const float *a[QC_ROWS];
        const ptrdiff_t offset = args->offsets ? args->offsets[t] : 0;
        size_t k = 0;
        QC_UNROLL for (size_t r = 0; r < rows; ++r) a[r] = row[r] + offset;
        for (; k + 4 <= args->depth; k += 4) {
            QC_UNROLL for (size_t r = 0; r < rows; ++r) x[r] = vld1q_f32(a[r] + k);
            QC_TERM(0)
            QC_TERM(1)
            QC_TERM(2)
            QC_TERM(3)
        }
        for (; k < args->depth; ++k) {
            QC_UNROLL for (size_t r = 0; r < rows; ++r) x[r] = vld1q_dup_f32(a[r] + k);
            QC_TERM(0)
        }
    }
    QC_UNROLL for (size_t r = 0; r < rows; ++r) {
        QC_UNROLL for (size_t q = 0; q < 4; ++q)
            if (n + 4 * q < args->columns) qc_keep(args, m + r, n + 4 * q, sum[r][q]);
    }
}

void qc_gemm_f32_neon(const qc_gemm_f32_args *args, size_t begin, size_t end) {
    for (size_t n = 0; n < args->columns; n += QC_LANES) {
        size_t m = begin;
        for (; m + QC_ROWS <= end; m += QC_ROWS) qc_tile(args, m, n, QC_ROWS);
        for (; m < end; ++m) qc_tile(args, m, n, 1);
    }
}
