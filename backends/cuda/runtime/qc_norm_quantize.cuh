/* Layer norm or root-mean-square norm of rows, then codes with a scale for every row.
 *
 *   layer: mean = sum(x) / width, variance = sum((x - mean)^2) / width, r = 1 / sqrt(variance + eps),
 *          y[i] = fma((x[i] - mean) * r, weight[i], bias[i])
 *   root mean square: r = 1 / sqrt(sum(x^2) / width + eps), y[i] = (x[i] * r) * weight[i]
 *   codes of y as `qc_codes.cuh` says; y itself too, rounded to the kind that came in, where `normed` is given
 *
 * All in float32. Sums are made over the elements of each lane in their order, squares by fused multiply-adds, and then
 * over lanes as `qc_combine_row` says. Every element is read once.
 */
#pragma once

#include "qc_codes.cuh"

struct qc_norm_quantize_args {
    const void *input;   /* [rows, stride], of which `width` count */
    const float *weight; /* [width], NULL for ones */
    const float *bias;   /* [width], NULL for zeros; layer norm only */
    void *out;           /* [rows, out_width] codes or reals */
    float *scale;        /* [rows], or NULL */
    int32_t *zero;       /* [rows], as stored, or NULL */
    int32_t *sum;        /* [rows], of the codes as stored, or NULL; not for e4m3 */
    void *normed;        /* [rows, width] reals, or NULL */
    int32_t rows;
    int32_t width;
    int32_t stride;
    int32_t out_width; /* a multiple of 8; that of reals is `width` */
    int32_t centred;   /* layer norm; else root mean square */
    int32_t format;    /* one of QC_CODES */
    int32_t symmetric;
    float eps;
    float lowest; /* codes of the program */
    float highest;
    float shift;       /* what is stored less the code */
    float fixed_scale; /* 0: every row has its own */
    float fixed_zero;
};

/* Eight neighbours of a vector of `width` floats, `missing` where there is none. */
QC_DEVICE void qc_eight_floats(float (&out)[8], const float *from, int column, int width, float missing) {
    if (from && width % 8 == 0 && column < width) {
        const uint4 raw[2] = {qc::load_global<uint4>(from + column), qc::load_global<uint4>(from + column + 4)};
        qc_unpack(qc_float(), raw, out);
        return;
    }
    QC_UNROLL
    for (int k = 0; k < 8; ++k) out[k] = from && column + k < width ? from[column + k] : missing;
}

template <class In, int Lanes, int Units, int Rows> QC_DEVICE void qc_norm_quantize(const qc_norm_quantize_args &args) {
    const int lane = (int)qc::thread() % Lanes;
    const int64_t row = (int64_t)qc::block_x() * Rows + qc::thread() / Lanes;
    if (row >= args.rows) return;
    constexpr int warps = Lanes / 32;
    float *room = (float *)qc::shared();
    const float count = qc::to_float(args.width);
    const auto plus = [](float a, float b) { return a + b; };
    float x[Units][8];
    int columns[Units];
    qc_load_row<In, Lanes>(x, args.input, row * args.stride, args.width, args.stride, lane);
    QC_UNROLL
    for (int i = 0; i < Units; ++i) columns[i] = 8 * (lane + Lanes * i);

    float mean[1] = {0.0f}, squares[1] = {0.0f};
    if (args.centred) {
        QC_UNROLL
        for (int i = 0; i < Units; ++i) {
            QC_UNROLL
            for (int k = 0; k < 8; ++k) mean[0] += x[i][k];
        }
        qc_combine_row<Lanes>(mean, room, plus);
        mean[0] = qc::divide(mean[0], count);
    }
    QC_UNROLL
    for (int i = 0; i < Units; ++i) {
        QC_UNROLL
        for (int k = 0; k < 8; ++k) {
            x[i][k] = columns[i] + k < args.width ? x[i][k] - mean[0] : 0.0f;
            squares[0] = qc::fma(x[i][k], x[i][k], squares[0]);
        }
    }
    qc_combine_row<Lanes>(squares, room + warps, plus);
    const float r = qc::divide(1.0f, qc::square_root(qc::add(qc::divide(squares[0], count), args.eps)));
    QC_UNROLL
    for (int i = 0; i < Units; ++i) {
        float weight[8], bias[8];
        qc_eight_floats(weight, args.weight, columns[i], args.width, 1.0f);
        if (args.bias) qc_eight_floats(bias, args.bias, columns[i], args.width, 0.0f);
        QC_UNROLL
        for (int k = 0; k < 8; ++k) {
            const float y = qc::multiply(x[i][k], r);
            x[i][k] = args.bias ? qc::fma(y, weight[k], bias[k]) : qc::multiply(y, weight[k]);
        }
        if (args.normed) qc_store_eight<In>(args.normed, args.width, row, columns[i], x[i]);
    }
    qc_store_row<In, Lanes>(args, x, columns, row, lane, room + 2 * warps);
}
