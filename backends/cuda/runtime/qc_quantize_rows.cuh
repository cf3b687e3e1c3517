/* Activations to codes, a scale for every row that is found on the way, or one that is given: `qc_codes.cuh` says how.
 * Every element is read once; Lanes * Units * 8 is the widest row.
 */
#pragma once

#include "qc_codes.cuh"

struct qc_quantize_rows_args {
    const void *input; /* [rows, stride], of which `width` count */
    void *out;         /* [rows, out_width] codes */
    float *scale;      /* [rows], or NULL */
    int32_t *zero;     /* [rows], as stored, or NULL */
    int32_t *sum;      /* [rows], of the codes as stored, or NULL; not for e4m3 */
    int32_t rows;
    int32_t width;
    int32_t stride;
    int32_t out_width; /* a multiple of 8 */
    int32_t format;    /* one of QC_CODES */
    int32_t symmetric;
    float lowest; /* codes of the program */
    float highest;
    float shift;       /* what is stored less the code */
    float fixed_scale; /* 0: every row has its own */
    float fixed_zero;
};

template <class In, int Lanes, int Units, int Rows> QC_DEVICE void qc_quantize_rows(const qc_quantize_rows_args &args) {
    const int lane = (int)qc::thread() % Lanes;
    const int64_t row = (int64_t)qc::block_x() * Rows + qc::thread() / Lanes;
    if (row >= args.rows) return;
    float x[Units][8];
    qc_load_row<In, Lanes>(x, args.input, row * args.stride, args.width, args.stride, lane);
    int columns[Units];
    QC_UNROLL
    for (int i = 0; i < Units; ++i) columns[i] = 8 * (lane + Lanes * i);
    qc_store_row<In, Lanes>(args, x, columns, row, lane, (float *)qc::shared());
}
