/* What becomes of a tile of int32 sums, eight columns at a time: qc_finish_one, bit for bit.
 *
 * Rounding is fcvtns (half to even), which saturates as all steps behind it do: far outside of [low, high] the result
 * is one of the two whatever happens to the digits, and inside every step is exact.
 */
#ifndef QC_FINISH_NEON_H
#define QC_FINISH_NEON_H

#include <arm_neon.h>

#include "qc_epilogue.h"

/* Half a row: what belongs to four columns. */
typedef struct {
    int32x4_t bias, column_sum;
    float32x4_t factor, float_bias;
} qc_finish_columns;

static inline qc_finish_columns qc_finish_load(const qc_epilogue *e, size_t column) {
    qc_finish_columns c = {vld1q_s32(e->bias + column), vdupq_n_s32(0), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    if (e->column_sum) c.column_sum = vld1q_s32(e->column_sum + column);
    if (e->factor) c.factor = vld1q_f32(e->factor + column);
    if (e->float_bias) c.float_bias = vld1q_f32(e->float_bias + column);
    return c;
}

/* What is the same for all elements. */
typedef struct {
    int16x8_t zero_point;
    int8x8_t low, high;
    float32x4_t scale;
} qc_finish_limits;

#define QC_FINISH_INLINE static inline __attribute__((always_inline))

QC_FINISH_INLINE int32x4_t qc_finish_total(
    const qc_epilogue *e, qc_finish_columns c, int32x4_t sum, size_t row, const int by_row) {
    int32x4_t total = vaddq_s32(sum, c.bias);
    return by_row && e->row_zero ? vmlsq_n_s32(total, c.column_sum, e->row_zero[row]) : total;
}

QC_FINISH_INLINE float32x4_t qc_finish_real(
    const qc_epilogue *e, qc_finish_columns c, int32x4_t total, size_t row, const qc_finish finish, const int by_row) {
    float32x4_t factor = by_row && e->row_scale ? vmulq_n_f32(c.factor, e->row_scale[row]) : c.factor;
    float32x4_t real = vmulq_f32(vcvtq_f32_s32(total), factor);
    return finish == QC_REALS_BIASED || finish == QC_CODES_BIASED ? vaddq_f32(real, c.float_bias) : real;
}

/* One row; `out` holds eight elements. */
QC_FINISH_INLINE void qc_finish_row(
    const qc_epilogue *e, const qc_finish_columns c[2], const qc_finish_limits *limits, const int32_t sums[8],
    size_t row, void *out, const qc_finish finish, const int by_row) {
    int32x4_t left = qc_finish_total(e, c[0], vld1q_s32(sums), row, by_row);
    int32x4_t right = qc_finish_total(e, c[1], vld1q_s32(sums + 4), row, by_row);
    if (finish == QC_INT32) {
        vst1q_s32((int32_t *)out, left);
        vst1q_s32((int32_t *)out + 4, right);
        return;
    }
    float32x4_t reals[2] = {
        qc_finish_real(e, c[0], left, row, finish, by_row), qc_finish_real(e, c[1], right, row, finish, by_row)};
    if (finish == QC_REALS || finish == QC_REALS_BIASED) {
        vst1q_f32((float *)out, reals[0]);
        vst1q_f32((float *)out + 4, reals[1]);
        return;
    }
    if (finish == QC_CODES_BIASED) {
        reals[0] = vdivq_f32(reals[0], limits->scale);
        reals[1] = vdivq_f32(reals[1], limits->scale);
    }
    int16x8_t steps = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(reals[0])), vqmovn_s32(vcvtnq_s32_f32(reals[1])));
    int8x8_t codes = vqmovn_s16(vqaddq_s16(steps, limits->zero_point));
    vst1_s8((int8_t *)out, vmin_s8(vmax_s8(codes, limits->low), limits->high));
}

QC_FINISH_INLINE void qc_finish_rows(
    const qc_epilogue *e, const int32_t sums[][8], size_t rows, size_t row, size_t column, char *out, size_t step,
    const qc_finish finish, const int by_row) {
    const qc_finish_columns c[2] = {qc_finish_load(e, column), qc_finish_load(e, column + 4)};
    const qc_finish_limits limits = {
        vdupq_n_s16((int16_t)e->zero_point), vdup_n_s8((int8_t)e->low), vdup_n_s8((int8_t)e->high),
        vdupq_n_f32(e->scale)};
    for (size_t r = 0; r < rows; ++r, out += step)
        qc_finish_row(e, c, &limits, sums[r], row + r, out, finish, by_row);
}

#define QC_FINISH_CASE(finish)                                                                                         \
    case finish:                                                                                                       \
        if (e->row_scale || e->row_zero)                                                                               \
            qc_finish_rows(e, sums, rows, row, column, out, step, finish, 1);                                          \
        else                                                                                                           \
            qc_finish_rows(e, sums, rows, row, column, out, step, finish, 0);                                          \
        break;

/* At most eight rows [row, row + rows) of columns [column, column + count), count <= 8. `result` is where (row, column)
 * goes, with `stride` elements from row to row. Arrays of columns are read up to the next multiple of eight. */
static __attribute__((noinline, unused)) void qc_finish_tile(
    const qc_epilogue *e, const int32_t sums[][8], size_t rows, size_t row, size_t column, size_t count, void *result,
    size_t stride) {
    const size_t bytes = qc_result_bytes(e->finish);
    float part[8][8]; /* for columns that do not fill it */
    char *out = count == 8 ? (char *)result : (char *)part;
    const size_t step = count == 8 ? stride * bytes : sizeof part[0];
    switch (e->finish) {
        QC_FINISH_CASE(QC_CODES)
        QC_FINISH_CASE(QC_CODES_BIASED)
        QC_FINISH_CASE(QC_REALS)
        QC_FINISH_CASE(QC_REALS_BIASED)
        QC_FINISH_CASE(QC_INT32)
    }
    for (size_t r = 0; count < 8 && r < rows; ++r) memcpy((char *)result + r * stride * bytes, part[r], count * bytes);
}

#endif
