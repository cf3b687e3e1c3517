/* What all products of codes are called with, and what becomes of their sums.
 *
 *   sum[m, n]   = sum over k of input[m, k] * weight[n, k]     int32, exact; a kernel of floats sums in float32
 *   total[m, n] = sum + total_bias[n] - row_zero[m] * column_sum[n] - row_sum[m] * column_zero[n]
 *   scale[m, n] = input_scale[m] * weight_scale[n]             those that are NULL are 1
 *   real[m, n]  = activation(float(total) * scale + low[m] . up[n] + bias[n]) + residual[m, n],
 *                 between least and most if `clamped`, which makes NaN one of them
 *   code[m, n]  = real / out_scale (unless that is 0), to nearest even, + zero_point, between least and most
 *
 * float32, in this order, each product, quotient and sum rounded apart, parts that are NULL left out. With groups,
 * `float(total)` is the sum over groups, in order, of float(sum of the group) * group_scale[group, n], each step one
 * fma (GEMV kernels add groups up in another order, and so do blocks that share a tile), and its
 * integer parts are those of `qc_group_zeros.cuh`; with blocks the factor is input_group_scale[m, group] *
 * group_scale[group, n]. Dot products of `low` and `up` are
 * float32 sums on matrix units, whose order is the device's. Residuals belong to float results and have their kind.
 * Activations are those of qc_activations.h; totals and signs have none.
 *
 * Where `splits` blocks share a tile, `workspace` takes their sums and the last one to come adds them up in order;
 * `counters`, one per tile, are zeros before and after.
 */
#pragma once

#include "qc_activations.h"
#include "qc_store.cuh"
#include "qc_tile.cuh"

enum { QC_OUT_F32, QC_OUT_F16, QC_OUT_BF16, QC_OUT_I8, QC_OUT_I32, QC_OUT_SIGNS };

struct qc_product_args {
    const void *input;         /* [rows, depth] codes as the kernel says */
    const void *weight;        /* [columns, depth] likewise, in the order of the kernel */
    void *out;                 /* [rows, columns]; of signs bits, rows filled up to 16 bytes with zeros */
    const float *input_scale;  /* [rows], or one where input_scales is 0, or NULL */
    const float *weight_scale; /* [columns], or one where weight_scales is 0, or NULL */
    const void *group_scale;   /* float16 [ceil(depth / group), columns filled up to a multiple of 2], or NULL */
    const float *input_group_scale; /* [rows, ceil(depth / group)] or NULL */
    const int16_t *group_sum;  /* with input_zero, arranged as group_scale: sums of weights less their zero points */
    const int8_t *group_zero;  /* zero points of weights, arranged as group_scale, or NULL */
    const int32_t *input_zero; /* with group_sum: zero points of inputs, [rows], or one where input_zeros is 0 */
    const float *bias;         /* [columns] or NULL */
    const int32_t *total_bias; /* [columns] or NULL */
    const int32_t *row_zero;   /* [rows] or NULL: zero points of inputs that are only known at run time */
    const int32_t *column_sum; /* [columns], with row_zero: sums of weights less their zero points */
    const int32_t *row_sum;    /* [rows], with column_zero: sums of inputs as stored */
    const int32_t *column_zero; /* [columns] or NULL: zero points of weights */
    const void *residual;      /* [rows, columns] or NULL */
    const void *low;           /* float16 [rows, rank] or NULL */
    const void *up;            /* float16 [columns, rank] */
    void *workspace;           /* 4 bytes per element of all tiles and splits, or NULL where splits is 1 */
    int32_t *counters;         /* one per tile */
    int32_t rows;
    int32_t columns;
    int32_t depth;             /* codes of a row; rows are filled up to 16 bytes with zeros */
    int32_t input_scales;
    int32_t input_zeros;
    int32_t weight_scales;
    int32_t group;             /* 32, 64 or 128 where group_scale is given */
    int32_t rank;              /* a multiple of 8 */
    int32_t splits;            /* 1 or more */
    int32_t out_kind;          /* 0 float32, 1 float16, 2 bfloat16, 3 int8, 4 int32 totals, 5 signs, 1 where real / out_scale < 0 */
    int32_t activation;        /* 0 none, 1 ReLU, 2 SiLU, 3 GELU, 4 GELU by tanh */
    int32_t clamped;
    float out_scale;
    float zero_point;
    float least;
    float most;
    const void *padding;       /* of convolutions, as all that follows: the zero point of inputs 16 times; NULL for 0 */
    int32_t image_height;
    int32_t image_width;
    int32_t channels;          /* a multiple of 16 */
    int32_t window_width;      /* its height is depth / channels / window_width */
    int32_t out_height;
    int32_t out_width;
    int32_t stride_y;
    int32_t stride_x;
    int32_t padding_y;         /* above; what is below follows from the heights */
    int32_t padding_x;
    int32_t dilation_y;
    int32_t dilation_x;
};

/* What belongs to Count neighbouring columns. */
template <int Count> struct qc_columns {
    float scale[Count], bias[Count];
    int total_bias[Count], sum[Count], zero[Count];
    int first, left; /* how many of the columns exist */
};

template <int Count> QC_DEVICE qc_columns<Count> qc_columns_at(const qc_product_args &args, int first) {
    qc_columns<Count> out;
    out.first = first, out.left = args.columns - first;
    QC_UNROLL
    for (int i = 0; i < Count; ++i) {
        const bool inside = i < out.left;
        out.scale[i] = inside && args.weight_scale ? args.weight_scale[args.weight_scales ? first + i : 0] : 1.0f;
        out.bias[i] = inside && args.bias ? args.bias[first + i] : 0.0f;
        out.total_bias[i] = inside && args.total_bias ? args.total_bias[first + i] : 0;
        out.sum[i] = inside && args.row_zero ? args.column_sum[first + i] : 0;
        out.zero[i] = inside && args.column_zero ? args.column_zero[first + i] : 0;
    }
    return out;
}

/* What belongs to a row. */
struct qc_row {
    float scale;
    int zero, sum;
};
QC_DEVICE qc_row qc_row_at(const qc_product_args &args, int row) {
    qc_row out = {1.0f, 0, 0};
    if (row >= args.rows) return out;
    if (args.input_scale) out.scale = args.input_scale[args.input_scales ? row : 0];
    if (args.row_zero) out.zero = args.row_zero[row];
    if (args.column_zero) out.sum = args.row_sum[row];
    return out;
}
QC_DEVICE qc_row qc_row_of_lane(const qc_row &mine, unsigned lane) {
    return {qc::shuffle(mine.scale, lane), qc::shuffle(mine.zero, lane), qc::shuffle(mine.sum, lane)};
}

QC_DEVICE float qc_as_float(int total) { return qc::to_float(total); }
QC_DEVICE float qc_as_float(float total) { return total; }

/* Totals of sums, and `float(total) * scale`. */
template <int Count>
QC_DEVICE void qc_reals(const qc_columns<Count> &columns, const qc_row &row, int (&total)[Count],
                        float (&real)[Count]) {
    QC_UNROLL
    for (int i = 0; i < Count; ++i) {
        total[i] += columns.total_bias[i] - row.zero * columns.sum[i] - row.sum * columns.zero[i];
        real[i] = qc::multiply(qc::to_float(total[i]), qc::multiply(row.scale, columns.scale[i]));
    }
}
template <int Count>
QC_DEVICE void qc_reals(const qc_columns<Count> &columns, const qc_row &row, float (&total)[Count],
                        float (&real)[Count]) {
    QC_UNROLL
    for (int i = 0; i < Count; ++i) real[i] = qc::multiply(total[i], qc::multiply(row.scale, columns.scale[i]));
}

QC_DEVICE float qc_number(const void *array, int kind, int64_t index) {
    if (kind == QC_OUT_F32) return ((const float *)array)[index];
    const uint16_t code = ((const uint16_t *)array)[index];
    return kind == QC_OUT_F16 ? qc::from_half(code) : qc::from_bfloat(code);
}
/* Count neighbours, all of them at once where they lie at a multiple of their size. */
template <class T, int Count>
QC_DEVICE void qc_store_some(void *array, int64_t index, const T (&values)[Count], int left) {
    struct alignas(Count * sizeof(T)) All {
        T value[Count];
    };
    T *to = (T *)array + index;
    if (left >= Count && index % Count == 0) {
        All all;
        QC_UNROLL
        for (int i = 0; i < Count; ++i) all.value[i] = values[i];
        qc::store_global(to, all);
        return;
    }
    QC_UNROLL
    for (int i = 0; i < Count; ++i) {
        if (i < left) qc::store_global(to + i, values[i]);
    }
}
template <class Out, int Count>
QC_DEVICE void qc_store_reals(void *array, int64_t index, const float (&reals)[Count], int left) {
    typename Out::type values[Count];
    QC_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = Out::pack(reals[i]);
    qc_store_some(array, index, values, left);
}

/* Count neighbouring results of a row that exists. `real` is float(total) * scale plus the low-rank product. */
template <int Count>
QC_DEVICE void qc_store_results(const qc_product_args &args, const qc_columns<Count> &columns, int row,
                                float (&real)[Count]) {
    const int64_t index = (int64_t)row * args.columns + columns.first;
    QC_UNROLL
    for (int i = 0; i < Count; ++i) {
        if (args.bias) real[i] = qc::add(real[i], columns.bias[i]);
        real[i] = qc::activate(real[i], args.activation);
        if (args.residual && i < columns.left) {
            real[i] = qc::add(real[i], qc_number(args.residual, args.out_kind, index + i));
        }
        if (args.out_kind == QC_OUT_I8) {
            if (args.out_scale != 0) real[i] = qc::divide(real[i], args.out_scale);
            real[i] = qc::add(qc::to_float(qc::round_even(real[i])), args.zero_point);
        }
        if (args.clamped || args.out_kind == QC_OUT_I8) {
            real[i] = qc::minimum(qc::maximum(real[i], args.least), args.most);
        }
    }
    if (args.out_kind == QC_OUT_F32) {
        qc_store_reals<qc_float>(args.out, index, real, columns.left);
    } else if (args.out_kind == QC_OUT_F16) {
        qc_store_reals<qc_half>(args.out, index, real, columns.left);
    } else if (args.out_kind == QC_OUT_BF16) {
        qc_store_reals<qc_bfloat>(args.out, index, real, columns.left);
    } else {
        int8_t codes[Count];
        QC_UNROLL
        for (int i = 0; i < Count; ++i) codes[i] = (int8_t)(int)real[i];
        qc_store_some(args.out, index, codes, columns.left);
    }
}
/* Signs of four neighbours in each of eight lanes side by side make a word; all lanes of the warp take part. */
QC_DEVICE void qc_store_signs(const qc_product_args &args, const qc_columns<4> &columns, int row,
                              const float (&real)[4]) {
    const float limit = qc_sign_limit(args.out_scale);
    uint32_t word = 0;
    QC_UNROLL
    for (int i = 0; i < 4; ++i) {
        const float biased = args.bias ? qc::add(real[i], columns.bias[i]) : real[i];
        if (i < columns.left && biased < limit) word |= 1u << (columns.first % 32 + i);
    }
    QC_UNROLL
    for (int mask = 1; mask < 8; mask *= 2) word |= qc::shuffle_xor(word, (unsigned)mask);
    if (columns.first % 32 || row >= args.rows || columns.left <= 0) return;
    const int words = (args.columns + 127) / 128 * 4, place = columns.first / 32;
    uint32_t *to = (uint32_t *)args.out + (int64_t)row * words;
    qc::store_global(to + place, word);
    for (int i = place + 1; columns.left <= 32 && i < words; ++i) qc::store_global(to + i, 0u);
}

/* Four sums of a row on their way to memory; all lanes of the warp take part. With `scaled` they are reals already. */
template <class Total>
QC_DEVICE void qc_store_four(const qc_product_args &args, const qc_columns<4> &columns, const qc_row &row, int at,
                             Total (&total)[4], bool scaled) {
    float real[4];
    if (scaled) {
        QC_UNROLL
        for (int i = 0; i < 4; ++i) real[i] = (float)total[i];
    } else {
        qc_reals(columns, row, total, real);
    }
    if (args.out_kind == QC_OUT_SIGNS) {
        qc_store_signs(args, columns, at, real);
    } else if (at < args.rows && columns.left > 0) {
        if (args.out_kind != QC_OUT_I32) qc_store_results(args, columns, at, real);
        else qc_store_some(args.out, (int64_t)at * args.columns + columns.first, total, columns.left);
    }
}

QC_DEVICE void qc_add_word(int &total, uint32_t word) { total += (int)word; }
QC_DEVICE void qc_add_word(float &total, uint32_t word) { total = qc::add(total, qc::from_bits(word)); }

/* Gathers the sums of all blocks that share this tile; whether this block is the one that goes on with them. */
template <class Tile, class Total>
QC_DEVICE bool qc_gather(const qc_product_args &args, Total (&total)[Tile::CountM][Tile::CountN][4]) {
    const int splits = (int)qc::blocks_z();
    if (splits == 1) return true;
    struct alignas(16) Four {
        Total value[4];
    };
    constexpr int each = Tile::CountM * Tile::CountN * Tile::Threads;
    const int64_t spot = qc::block_y() * qc::blocks_x() + qc::block_x();
    Four *sums = (Four *)args.workspace + spot * splits * each + qc::thread();
    QC_UNROLL
    for (int i = 0; i < Tile::CountM; ++i) {
        QC_UNROLL
        for (int j = 0; j < Tile::CountN; ++j) {
            Four four;
            QC_UNROLL
            for (int k = 0; k < 4; ++k) four.value[k] = total[i][j][k], total[i][j][k] = 0;
            qc::store_global(sums + ((int)qc::block_z() * each + (i * Tile::CountN + j) * Tile::Threads), four);
        }
    }
    int *came = (int *)qc::shared();
    qc::fence();
    qc::sync();
    if (qc::thread() == 0) *came = qc::atomic_add(args.counters + spot, 1);
    qc::sync();
    const bool last = *came == splits - 1;
    qc::sync();
    if (!last) return false;
    qc::fence();
    if (qc::thread() == 0) args.counters[spot] = 0;
    for (int split = 0; split < splits; ++split) {
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) {
            QC_UNROLL
            for (int j = 0; j < Tile::CountN; ++j) {
                const uint4 four =
                    qc::load_coherent<uint4>(sums + (split * each + (i * Tile::CountN + j) * Tile::Threads));
                qc_add_word(total[i][j][0], four.x), qc_add_word(total[i][j][1], four.y);
                qc_add_word(total[i][j][2], four.z), qc_add_word(total[i][j][3], four.w);
            }
        }
    }
    return true;
}

/* Brings the sums of a block to memory. They pass through shared memory, sixteen rows of a warp at a time, so that
 * lanes get four neighbours and read and write whole sectors. Rows there have 8 words more than a warp has columns:
 * the pairs that half a warp writes then lie in different banks. Nobody may use shared memory any more. */
template <class Tile, class Total>
QC_DEVICE void qc_finish(const qc_product_args &args, const qc_spot &spot,
                         const Total (&total)[Tile::CountM][Tile::CountN][4], bool scaled) {
    constexpr int pitch = Tile::WarpN + 8, across = Tile::WarpN / 4, down = 32 / across;
    struct alignas(8) Two {
        Total value[2];
    };
    struct alignas(16) Four {
        Total value[4];
    };
    const int lane = (int)qc::lane(), warp_m = (int)qc::warp() / Tile::WarpsN, warp_n = (int)qc::warp() % Tile::WarpsN;
    Total *stage = (Total *)qc::shared() + qc::warp() * (16 * pitch);
    const qc_columns<4> columns =
        qc_columns_at<4>(args, spot.column * Tile::TileN + warp_n * Tile::WarpN + lane % across * 4);
    const int first_row = spot.row * Tile::TileM + warp_m * Tile::WarpM;
    qc_row rows[(Tile::WarpM + 31) / 32];
    QC_UNROLL
    for (int i = 0; i < (Tile::WarpM + 31) / 32; ++i) rows[i] = qc_row_at(args, first_row + i * 32 + lane);
    QC_UNROLL
    for (int i = 0; i < Tile::CountM; ++i) {
        QC_UNROLL
        for (int j = 0; j < Tile::CountN; ++j) {
            QC_UNROLL
            for (int upper = 0; upper < 2; ++upper) {
                qc::store_shared(stage + ((lane / 4 + upper * 8) * pitch + j * 8 + lane % 4 * 2),
                                 Two{{total[i][j][2 * upper], total[i][j][2 * upper + 1]}});
            }
        }
        qc::sync_warp();
        for (int at = lane / across; at < 16; at += down) {
            Four four = qc::load_shared<Four>(stage + (at * pitch + lane % across * 4));
            const qc_row row = qc_row_of_lane(rows[i / 2], (unsigned)(i % 2 * 16 + at));
            qc_store_four(args, columns, row, first_row + i * 16 + at, four.value, scaled);
        }
        qc::sync_warp();
    }
}
