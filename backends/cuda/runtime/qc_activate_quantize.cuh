/* Activations or gated products of rows, then codes with a scale for every row or one that is given.
 *
 *   y[i] = f(x[i]), or f(x[i]) * gate[i] where there is a gate; f is Which of `qc_activations.h`
 *   codes of y as `qc_codes.cuh` says
 *
 * All in float32. Both may be parts of the same rows. Every element is read once.
 */
#pragma once

#include "qc_activations.h"
#include "qc_codes.cuh"

struct qc_activate_quantize_args {
    const void *input; /* [rows, stride], of which `width` from `column` on count */
    const void *gate;  /* [rows, gate_stride], likewise from `gate_column` on; NULL for ones */
    void *out;         /* [rows, out_width] codes or reals */
    float *scale;      /* [rows], or NULL */
    int32_t *zero;     /* [rows], as stored, or NULL */
    int32_t *sum;      /* [rows], of the codes as stored, or NULL; not for e4m3 */
    int32_t rows;
    int32_t width;
    int32_t stride;
    int32_t column;
    int32_t gate_stride;
    int32_t gate_column;
    int32_t out_width; /* a multiple of 8; that of reals is `width` */
    int32_t format;    /* one of QC_CODES */
    int32_t symmetric;
    float lowest; /* codes of the program */
    float highest;
    float shift;       /* what is stored less the code */
    float fixed_scale; /* 0: every row has its own */
    float fixed_zero;
};

template <class In, int Which, int Lanes, int Units, int Rows>
QC_DEVICE void qc_activate_quantize(const qc_activate_quantize_args &args) {
    const int lane = (int)qc::thread() % Lanes;
    const int64_t row = (int64_t)qc::block_x() * Rows + qc::thread() / Lanes;
    if (row >= args.rows) return;
    typedef typename In::type Element;
    constexpr int vectors = (int)sizeof(Element) / 2;
    const Element *const gates = (const Element *)args.gate + args.gate_column;
    const Element *const own = gates + row * args.gate_stride;
    /* All gates are fetched before anything waits, as far as there are registers. */
    constexpr bool room = Units * vectors <= 8;
    const bool early = room && args.gate && qc_in_vectors(gates, args.width, args.gate_stride);
    uint4 raw[Units][vectors];
    float x[Units][8];
    int columns[Units];
    if (early) qc_fetch_vectors<Element, Lanes>(raw, own, args.width, lane);
    const Element *const from = (const Element *)args.input + args.column;
    qc_load_row<In, Lanes>(x, from, row * args.stride, args.width, args.stride, lane);
    QC_UNROLL
    for (int i = 0; i < Units; ++i) {
        columns[i] = 8 * (lane + Lanes * i);
        /* Beyond the row there are zeros, which all functions leave. */
        if (columns[i] >= args.width) continue;
        float gate[8];
        if (early) qc_unpack(In(), raw[i], gate);
        if (args.gate && !early) qc_load_eight<In>(gate, own, columns[i], args.width);
        QC_UNROLL
        for (int k = 0; k < 8; ++k) {
            const float y = qc::activate(x[i][k], Which);
            x[i][k] = args.gate ? qc::multiply(y, gate[k]) : y;
        }
    }
    qc_store_row<In, Lanes>(args, x, columns, row, lane, (float *)qc::shared());
}
