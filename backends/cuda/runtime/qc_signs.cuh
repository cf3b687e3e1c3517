/* Rows of reals to signs in bits, 1 where x / scale is less than zero, the first in the lowest bit: what `qc_gemm_b1.cuh`
 * multiplies.
 *
 * Dynamic, where fixed_scale is 0: scale = largest magnitude of the row, at least 2^-149; 1 for a row of zeros.
 * A quotient that rounds to zero is not less than zero, nor is NaN.
 */
#pragma once

#include "qc_rows.cuh"

struct qc_signs_args {
    const void *input; /* [rows, stride], of which `width` count */
    void *out;         /* [rows, out_width / 8] bytes */
    float *scale;      /* [rows], or NULL */
    int32_t rows;
    int32_t width;
    int32_t stride;
    int32_t out_width; /* bits, a multiple of 8; those behind the signs are zeros */
    float fixed_scale; /* 0: every row has its own */
};

template <class In, int Lanes, int Units, int Rows> QC_DEVICE void qc_signs(const qc_signs_args &args) {
    const int lane = (int)qc::thread() % Lanes;
    const int64_t row = (int64_t)qc::block_x() * Rows + qc::thread() / Lanes;
    if (row >= args.rows) return;
    float x[Units][8];
    qc_load_row<In, Lanes>(x, args.input, row * args.stride, args.width, args.stride, lane);
    float scale = args.fixed_scale;
    if (scale == 0.0f) {
        float reach[1] = {0.0f};
        QC_UNROLL
        for (int i = 0; i < Units; ++i) {
            QC_UNROLL
            for (int k = 0; k < 8; ++k) reach[0] = qc::maximum(reach[0], qc::magnitude(x[i][k]));
        }
        qc_combine_row<Lanes>(reach, (float *)qc::shared(), [](float a, float b) { return qc::maximum(a, b); });
        scale = reach[0] == 0.0f ? 1.0f : qc::minimum(reach[0], 3.40282347e38f);
    }
    const float limit = qc_sign_limit(scale);
    const int bytes = args.out_width / 8;
    QC_UNROLL
    for (int i = 0; i < Units; ++i) {
        const int column = lane + Lanes * i;
        unsigned bits = 0;
        QC_UNROLL
        for (int k = 0; k < 8; ++k) bits |= x[i][k] < limit ? 1u << k : 0u;
        if (column < bytes) qc::store_global((unsigned char *)args.out + row * bytes + column, (unsigned char)bits);
    }
    if (args.scale && lane == 0) args.scale[row] = scale;
}
