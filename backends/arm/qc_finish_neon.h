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

QC_FINISH_INLINE qc_finish_limits qc_finish_limits_of(const qc_epilogue *e) {
    return (qc_finish_limits){
        vdupq_n_s16((int16_t)e->zero_point), vdup_n_s8((int8_t)e->low), vdup_n_s8((int8_t)e->high),
        vdupq_n_f32(e->scale)};
}

/* Eight codes before they are clipped. */
QC_FINISH_INLINE int16x8_t qc_finish_place(const qc_finish_limits *limits, const float32x4_t steps[2]) {
    int16x4_t left = vqmovn_s32(vcvtnq_s32_f32(steps[0]));
    return vqaddq_s16(vqmovn_high_s32(left, vcvtnq_s32_f32(steps[1])), limits->zero_point);
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
    vst1_s8((int8_t *)out, vmin_s8(vmax_s8(vqmovn_s16(qc_finish_place(limits, reals)), limits->low), limits->high));
}

/* Codes of eight rows from int32 sums and factors of columns alone, which is what most layers need: two rows are
 * clipped at a time. */
QC_FINISH_INLINE void qc_finish_eight(
    const qc_epilogue *e, const int32_t sums[8][8], size_t column, int8_t *out, size_t stride) {
    const qc_finish_columns c[2] = {qc_finish_load(e, column), qc_finish_load(e, column + 4)};
    const qc_finish_limits limits = qc_finish_limits_of(e);
    const int8x16_t low = vcombine_s8(limits.low, limits.low), high = vcombine_s8(limits.high, limits.high);
    for (size_t r = 0; r < 8; r += 2, out += 2 * stride) {
        int16x8_t codes[2];
        for (size_t i = 0; i < 2; ++i) {
            const float32x4_t reals[2] = {
                qc_finish_real(e, c[0], qc_finish_total(e, c[0], vld1q_s32(sums[r + i]), 0, 0), 0, QC_CODES, 0),
                qc_finish_real(e, c[1], qc_finish_total(e, c[1], vld1q_s32(sums[r + i] + 4), 0, 0), 0, QC_CODES, 0)};
            codes[i] = qc_finish_place(&limits, reals);
        }
        const int8x16_t both = vqmovn_high_s16(vqmovn_s16(codes[0]), codes[1]);
        const int8x16_t clipped = vminq_s8(vmaxq_s8(both, low), high);
        vst1_s8(out, vget_low_s8(clipped));
        vst1_s8(out + stride, vget_high_s8(clipped));
    }
}

QC_FINISH_INLINE void qc_finish_rows(
    const qc_epilogue *e, const int32_t sums[][8], size_t rows, size_t row, size_t column, char *out, size_t step,
    const qc_finish finish, const int by_row) {
    const qc_finish_columns c[2] = {qc_finish_load(e, column), qc_finish_load(e, column + 4)};
    const qc_finish_limits limits = qc_finish_limits_of(e);
    for (size_t r = 0; r < rows; ++r, out += step)
        qc_finish_row(e, c, &limits, sums[r], row + r, out, finish, by_row);
}

/* Eight codes as floats, less a shift. */
QC_FINISH_INLINE void qc_code_floats(int8x8_t codes, float shift, float32x4_t out[2]) {
    const int16x8_t words = vmovl_s8(codes);
    out[0] = vsubq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vdupq_n_f32(shift));
    out[1] = vsubq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(words))), vdupq_n_f32(shift));
}

/* Rows of QC_CODES, with what is added to them (qc_residual). */
static __attribute__((noinline, unused)) void qc_finish_added(
    const qc_epilogue *e, const int32_t sums[][8], size_t rows, size_t row, size_t column, char *out, size_t step) {
    const qc_residual *r = &e->residual;
    const qc_finish_columns c[2] = {qc_finish_load(e, column), qc_finish_load(e, column + 4)};
    const qc_finish_limits limits = qc_finish_limits_of(e);
    const qc_finish_limits last = {
        vdupq_n_s16((int16_t)r->result_shift), vdup_n_s8((int8_t)r->low), vdup_n_s8((int8_t)r->high), limits.scale};
    const float32x4_t constant = vdupq_n_f32(r->constant);
    for (size_t i = 0; i < rows; ++i, out += step) {
        float32x4_t steps[2], own[2], other[2];
        for (size_t h = 0; h < 2; ++h) {
            const int32x4_t total = qc_finish_total(e, c[h], vld1q_s32(sums[i] + 4 * h), 0, 0);
            steps[h] = qc_finish_real(e, c[h], total, 0, QC_CODES, 0);
        }
        const int8x8_t code = vqmovn_s16(qc_finish_place(&limits, steps));
        qc_code_floats(vmin_s8(vmax_s8(code, limits.low), limits.high), r->own_shift, own);
        qc_code_floats(vld1_s8((const int8_t *)r->codes + (row + i) * r->stride + column), r->shift, other);
        for (size_t h = 0; h < 2; ++h)
            steps[h] = r->leads ? vfmaq_n_f32(vfmaq_n_f32(constant, own[h], r->own), other[h], r->factor)
                                : vfmaq_n_f32(vfmaq_n_f32(constant, other[h], r->factor), own[h], r->own);
        const int8x8_t result = vqmovn_s16(qc_finish_place(&last, steps));
        vst1_s8((int8_t *)out, vmin_s8(vmax_s8(result, last.low), last.high));
    }
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
    const int added = e->finish == QC_CODES && e->residual.codes != NULL;
    if (rows == 8 && count == 8 && e->finish == QC_CODES && !added && !e->row_scale && !e->row_zero) {
        qc_finish_eight(e, sums, column, (int8_t *)result, stride);
        return;
    }
    const size_t bytes = qc_result_bytes(e->finish);
    unsigned char part[8][8 * sizeof(float)]; /* for columns that do not fill it */
    char *out = count == 8 ? (char *)result : (char *)part;
    const size_t step = count == 8 ? stride * bytes : sizeof part[0];
    if (added) qc_finish_added(e, sums, rows, row, column, out, step);
    switch (added ? QC_FIXED : e->finish) {
        QC_FINISH_CASE(QC_CODES)
        QC_FINISH_CASE(QC_CODES_BIASED)
        QC_FINISH_CASE(QC_REALS)
        QC_FINISH_CASE(QC_REALS_BIASED)
        QC_FINISH_CASE(QC_INT32)
    case QC_FIXED:
        break; /* portable C only */
    }
    for (size_t r = 0; count < 8 && r < rows; ++r) memcpy((char *)result + r * stride * bytes, part[r], count * bytes);
}

#endif
