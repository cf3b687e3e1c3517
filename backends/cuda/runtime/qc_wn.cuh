/* What products with packed weights are called with, and what becomes of their sums.
 *
 *   out[m, n] = activation(total[m, n] + bias[n]) + residual[m, n]     float32, each sum rounded, then the kind of
 *   `out`
 *
 * Parts that are NULL are left out. Activations are those of qc_activations.h.
 */
#pragma once

#include "qc_activations.h"
#include "qc_wn_kinds.cuh"

struct qc_wn_args {
    const void *input;    /* [rows, depth] in the kind of the instance */
    const void *weight;   /* packed, see qc_gemm_wn.cuh */
    const void *scale;    /* [ceil(columns / 16), groups, 8, 2] in the kind: of columns c and c + 8 of sixteen */
    const void *zero;     /* likewise, whole numbers; NULL: half the range of the integers */
    const void *table;    /* entries in the kind, where codes are indices */
    const float *bias;    /* [columns] or NULL */
    const void *residual; /* [rows, columns] in the kind of `out`, or NULL */
    const void *low;      /* [rows, rank] in the kind, or NULL */
    const void *up;       /* [columns, rank] in the kind */
    void *out;            /* [rows, columns] */
    void *workspace;      /* splits * rows * columns filled up to the tile's, float32; NULL where splits is 1 */
    int32_t *counters;    /* one per tile of `out`, zeros before and after; NULL where splits is 1 */
    float tensor_scale;   /* of all weights */
    int32_t rows;
    int32_t columns;
    int32_t depth;        /* a multiple of 8 */
    int32_t groups;       /* ceil(depth filled up to 64 / group), or 1 */
    int32_t group_shift;  /* group = 1 << group_shift, at least 16; 31 where a column is one group */
    int32_t rank;         /* a multiple of 16 */
    int32_t splits;       /* blocks that share the inputs of a tile, 1 or more */
    int32_t activation;   /* 0 none, 1 ReLU, 2 SiLU, 3 GELU, 4 GELU by tanh */
    int32_t out_float;    /* whether `out` is float32; otherwise it is of the kind */
};

/* Four neighbours at `index`, at once where rows are whole fours; the first `left` of them. */
template <class Out> QC_DEVICE void qc_wn_store(void *array, int64_t index, const float (&values)[4], int left) {
    struct alignas(4 * sizeof(typename Out::type)) Four {
        typename Out::type first, second, third, fourth;
    };
    if (left >= 4 && index % 4 == 0) {
        const Four four{Out::pack(values[0]), Out::pack(values[1]), Out::pack(values[2]), Out::pack(values[3])};
        qc::store_global((typename Out::type *)array + index, four);
        return;
    }
    qc_store_pair<Out>(array, index, {values[0], values[1]}, left);
    qc_store_pair<Out>(array, index + 2, {values[2], values[3]}, left - 2);
}

/* The results of four neighbouring columns of a row, from the first on as many as exist. */
template <class Kind>
QC_DEVICE void qc_wn_finish(const qc_wn_args &args, int row, int column, const float (&total)[4]) {
    const int64_t at = (int64_t)row * args.columns + column;
    float real[4];
    QC_UNROLL
    for (int i = 0; i < 4; ++i) {
        real[i] = total[i];
        if (column + i >= args.columns) continue;
        if (args.bias) real[i] = qc::add(real[i], args.bias[column + i]);
        real[i] = qc::activate(real[i], args.activation);
        if (!args.residual) continue;
        real[i] = qc::add(real[i], args.out_float ? ((const float *)args.residual)[at + i]
                                                  : Kind::real(((const uint16_t *)args.residual)[at + i]));
    }
    if (args.out_float) qc_wn_store<qc_float>(args.out, at, real, args.columns - column);
    else qc_wn_store<typename Kind::stored>(args.out, at, real, args.columns - column);
}
