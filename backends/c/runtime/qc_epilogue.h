/* What becomes of the int32 sums of integer kernels.
 *
 * With `total = sum_k a[m][k] * w[n][k] + bias[n] - row_zero[m] * column_sum[n]` in int32 (a as stored, zero points of
 * activations that are known beforehand are folded into `bias`), in float32, every operation rounded on its own:
 *
 *   QC_CODES           clip(round(float(total) * factor[n]) + zero_point, low, high)         as qc_act
 *   QC_REALS           float(total) * (row_scale[m] * factor[n])                              as float
 *   QC_REALS_BIASED    float(total) * (row_scale[m] * factor[n]) + float_bias[n]
 *   QC_CODES_BIASED    clip(round((float(total) * factor[n] + float_bias[n]) / scale) + zero_point, low, high)
 *   QC_INT32           total, as int32
 *
 * Without `row_scale` the factor of a column is taken as it is. `round` goes half to even.
 */
#ifndef QC_EPILOGUE_H
#define QC_EPILOGUE_H

#include "qc_base.h"

typedef enum { QC_CODES, QC_REALS, QC_REALS_BIASED, QC_CODES_BIASED, QC_INT32 } qc_finish;

typedef struct {
    qc_finish finish;
    const int32_t *bias;       /* [columns, rounded up to whole panels], never NULL */
    const float *factor;       /* likewise; NULL for QC_INT32 */
    const float *float_bias;   /* likewise, NULL unless biased */
    const float *row_scale;    /* [rows] or NULL */
    const int32_t *row_zero;   /* [rows] or NULL: zero points that are only known at run time, as stored */
    const int32_t *column_sum; /* [columns, rounded up]: sums of weights, NULL without row_zero */
    float scale;               /* of QC_CODES_BIASED */
    float zero_point, low, high; /* as stored */
} qc_epilogue;

/* One element; vector versions of the levels equal it bit for bit. `out` points at the element. */
static inline void qc_finish_one(const qc_epilogue *e, int32_t sum, size_t row, size_t column, void *out) {
    int32_t total = sum + e->bias[column];
    if (e->row_zero) total -= e->row_zero[row] * e->column_sum[column];
    if (e->finish == QC_INT32) {
        *(int32_t *)out = total;
        return;
    }
    float factor = e->row_scale ? e->row_scale[row] * e->factor[column] : e->factor[column];
    float real = (float)total * factor;
    switch (e->finish) {
    case QC_CODES:
        *(qc_act *)out = (qc_act)qc_place(real, e->zero_point, e->low, e->high);
        break;
    case QC_CODES_BIASED:
        *(qc_act *)out = (qc_act)qc_place((real + e->float_bias[column]) / e->scale, e->zero_point, e->low, e->high);
        break;
    case QC_REALS_BIASED:
        *(float *)out = real + e->float_bias[column];
        break;
    default:
        *(float *)out = real;
    }
}

static inline size_t qc_result_bytes(qc_finish finish) {
    return finish == QC_CODES || finish == QC_CODES_BIASED ? sizeof(qc_act) : sizeof(float);
}

#endif
