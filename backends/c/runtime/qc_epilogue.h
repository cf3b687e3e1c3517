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
 *   QC_FIXED           clip(round(total * mantissa[n] / 2^shift[n]) + zero_point, low, high), exact: portable C only
 *
 * Without `row_scale` the factor of a column is taken as it is. `round` goes half to even.
 */
#ifndef QC_EPILOGUE_H
#define QC_EPILOGUE_H

#include "qc_fixed.h"

/* Codes that QC_CODES adds to its own without storing these, where `codes` is not NULL: with q = code - own_shift of its
 * own code, r = codes[row * stride + column] - shift, every multiply-add rounded once,
 *
 *   clip(round(steps) + result_shift, low, high), steps = fma(q, own, fma(r, factor, constant)), or where `leads` is set
 *   fma(r, factor, fma(q, own, constant)).
 *
 * Source: backends.reference.pointwise.add. Only qc_gemm_i8 reads it.
 */
typedef struct {
    const qc_act *codes;
    size_t stride; /* elements from row to row */
    int leads;
    float own, factor, constant;
    float own_shift, shift;
    float result_shift, low, high; /* limits as stored */
} qc_residual;

typedef enum { QC_CODES, QC_REALS, QC_REALS_BIASED, QC_CODES_BIASED, QC_INT32, QC_FIXED } qc_finish;

typedef struct {
    qc_finish finish;
    const int32_t *bias;       /* [columns, rounded up to whole panels], never NULL */
    const float *factor;       /* likewise; NULL for QC_INT32 and QC_FIXED */
    const float *float_bias;   /* likewise, NULL unless biased */
    const float *row_scale;    /* [rows] or NULL */
    const int32_t *row_zero;   /* [rows] or NULL: zero points that are only known at run time, as stored */
    const int32_t *column_sum; /* [columns, rounded up]: sums of weights, NULL without row_zero */
    float scale;               /* of QC_CODES_BIASED */
    float zero_point, low, high; /* as stored */
    qc_fixed fixed;              /* QC_FIXED only, with its own limits */
    qc_residual residual;        /* QC_CODES only */
} qc_epilogue;

static inline int32_t qc_added(const qc_residual *r, int32_t code, size_t row, size_t column) {
    const float own = (float)code - r->own_shift, other = (float)r->codes[row * r->stride + column] - r->shift;
    const float steps = r->leads ? fmaf(other, r->factor, fmaf(own, r->own, r->constant))
                                 : fmaf(own, r->own, fmaf(other, r->factor, r->constant));
    return qc_place(steps, r->result_shift, r->low, r->high);
}

/* One element; vector versions of the levels equal it bit for bit. `out` points at the element. */
static inline void qc_finish_one(const qc_epilogue *e, int32_t sum, size_t row, size_t column, void *out) {
    int32_t total = sum + e->bias[column];
    if (e->row_zero) total -= e->row_zero[row] * e->column_sum[column];
    if (e->finish == QC_INT32) {
        *(int32_t *)out = total;
        return;
    }
    if (e->finish == QC_FIXED) {
        *(qc_act *)out = (qc_act)qc_fixed_code(&e->fixed, total, column);
        return;
    }
    float factor = e->row_scale ? e->row_scale[row] * e->factor[column] : e->factor[column];
    float real = (float)total * factor;
    int32_t code;
    switch (e->finish) {
    case QC_CODES:
        code = qc_place(real, e->zero_point, e->low, e->high);
        *(qc_act *)out = (qc_act)(e->residual.codes ? qc_added(&e->residual, code, row, column) : code);
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
    return finish == QC_CODES || finish == QC_CODES_BIASED || finish == QC_FIXED ? sizeof(qc_act) : sizeof(float);
}

#endif
