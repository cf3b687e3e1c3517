/* Product of nibbles, as `qc_product.cuh` says, with a low-rank branch beside it.
 *
 * Input and weight are two's complement, two to a byte, the first in the low half, rows filled up to 16 bytes. Any
 * order of codes is right that both have. `qc_s4` multiplies nibbles where that is an instruction, `qc_s4_as_s8`
 * elsewhere: the low and then the high nibbles of a register as the highest bits of bytes, 16 times the codes. Sums
 * are the same.
 *
 * The low-rank product is more slices of the same pipeline, of half-precision floats, multiplied onto the scaled
 * sums.
 */
#pragma once

#include "qc_sums.cuh"

struct qc_s4 : qc_plain {
    typedef int Total;
    static QC_MEMBER void multiply(int (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        qc::mma_s4(total, a, b);
    }
};
struct qc_s4_as_s8 {
    typedef int Total;
    static constexpr int kWeightBytes = 16, kPlanes = 2, kShift = 8;
    static QC_MEMBER uint32_t nibbles(uint32_t from, int plane) { return (plane ? from : from << 4) & 0xf0f0f0f0u; }
    static QC_MEMBER void left(uint32_t (&out)[4], const uint32_t (&a)[4], int plane) {
        QC_UNROLL
        for (int i = 0; i < 4; ++i) out[i] = nibbles(a[i], plane);
    }
    static QC_MEMBER void right(uint32_t (&out)[2], const uint32_t (&b)[2], int, int plane) {
        out[0] = nibbles(b[0], plane), out[1] = nibbles(b[1], plane);
    }
    static QC_MEMBER void multiply(int (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        qc::mma_s8(total, a, b);
    }
};
struct qc_f16 : qc_plain {
    typedef float Total;
    static QC_MEMBER void multiply(float (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        qc::mma_f16(total, a, b);
    }
};

/* Calls change(row, column, sum) for each sum of a lane that is part of the result. */
template <class Tile, class Total, class Change>
QC_DEVICE void qc_each(const qc_product_args &args, const qc_spot &spot, Total (&total)[Tile::CountM][Tile::CountN][4],
                       Change change) {
    const int lane = (int)qc::lane(), warp_m = (int)qc::warp() / Tile::WarpsN, warp_n = (int)qc::warp() % Tile::WarpsN;
    const int first_row = spot.row * Tile::TileM + warp_m * Tile::WarpM + lane / 4;
    const int first_column = spot.column * Tile::TileN + warp_n * Tile::WarpN + lane % 4 * 2;
    QC_UNROLL
    for (int j = 0; j < Tile::CountN; ++j) {
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) {
            QC_UNROLL
            for (int k = 0; k < 4; ++k) {
                const int row = first_row + i * 16 + k / 2 * 8, column = first_column + j * 8 + k % 2;
                if (row < args.rows && column < args.columns) change(row, column, total[i][j][k]);
            }
        }
    }
}

/* Sums to reals, where they are. Part after part, because all parts of all rows and columns would fill the
 * registers. */
template <class Tile>
QC_DEVICE void qc_add_parts(const qc_product_args &args, const qc_spot &spot,
                            int (&total)[Tile::CountM][Tile::CountN][4]) {
    if (args.total_bias) {
        qc_each<Tile>(args, spot, total, [&](int, int column, int &sum) { sum += args.total_bias[column]; });
    }
    if (args.row_zero) {
        qc_each<Tile>(args, spot, total,
                      [&](int row, int column, int &sum) { sum -= args.row_zero[row] * args.column_sum[column]; });
    }
    if (args.column_zero) {
        qc_each<Tile>(args, spot, total,
                      [&](int row, int column, int &sum) { sum -= args.row_sum[row] * args.column_zero[column]; });
    }
}
template <class Tile, class Total>
QC_DEVICE void qc_scale(const qc_product_args &args, const qc_spot &spot, Total (&total)[Tile::CountM][Tile::CountN][4],
                        float (&real)[Tile::CountM][Tile::CountN][4]) {
    const int lane = (int)qc::lane(), warp_m = (int)qc::warp() / Tile::WarpsN, warp_n = (int)qc::warp() % Tile::WarpsN;
    const int first_row = spot.row * Tile::TileM + warp_m * Tile::WarpM + lane / 4;
    const int first_column = spot.column * Tile::TileN + warp_n * Tile::WarpN + lane % 4 * 2;
    float rows[2 * Tile::CountM];
    QC_UNROLL
    for (int i = 0; i < 2 * Tile::CountM; ++i) {
        const int row = first_row + i * 8;
        const bool inside = args.input_scale && row < args.rows;
        rows[i] = inside ? args.input_scale[args.input_scales ? row : 0] : 1.0f;
    }
    QC_UNROLL
    for (int j = 0; j < Tile::CountN; ++j) {
        float columns[2];
        QC_UNROLL
        for (int k = 0; k < 2; ++k) {
            const int column = first_column + j * 8 + k;
            const bool inside = args.weight_scale && column < args.columns;
            columns[k] = inside ? args.weight_scale[args.weight_scales ? column : 0] : 1.0f;
        }
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) {
            QC_UNROLL
            for (int k = 0; k < 4; ++k) {
                const float scale = qc::multiply(rows[2 * i + k / 2], columns[k % 2]);
                real[i][j][k] = qc::multiply(qc_as_float(total[i][j][k]), scale);
            }
        }
    }
}

template <class Tile, class Product, qc_scales Scales> QC_DEVICE void qc_gemm_w4a4(const qc_product_args &args) {
    typedef qc_loop<Tile, qc_f16> LowRank;
    static_assert(LowRank::kBytes == qc_loop<Tile, Product>::kBytes, "both lie in the same stages");
    const int size = (args.depth + 31) / 32 * 16;
    const qc_source<Tile, Product> from(args, qc_spot_of_block(), size, size);
    const qc_rows low = {(const unsigned char *)args.low, args.rows, 2 * args.rank};
    const qc_rows up = {(const unsigned char *)args.up, args.columns, 2 * args.rank};
    const int slices = (2 * args.rank + Tile::Slice - 1) / Tile::Slice, ahead = qc::blocks_z() == 1 ? slices : 0;
    const auto fetch_low_rank = [&](unsigned char *to, int i) {
        if (i < slices) from.fetch_of(to, low, up, i);
    };
    /* One place for both, because addresses of each of them would fill the registers. */
    const auto fetch = [&](unsigned char *to, int i) {
        const bool codes = i < from.share.count;
        const int slice = codes ? from.share.first + i : i - from.share.count;
        const int bytes = codes ? size : 2 * args.rank;
        const qc_rows left = {(const unsigned char *)(codes ? args.input : args.low), args.rows, bytes};
        const qc_rows right = {(const unsigned char *)(codes ? args.weight : args.up), args.columns, bytes};
        if (codes || slice < ahead) from.fetch_of(to, left, right, slice);
    };
    qc_loop<Tile, Product>::start(fetch);
    float real[Tile::CountM][Tile::CountN][4];
    int stage;
    if constexpr (Scales != QC_OF_COLUMNS) {
        LowRank::clear(real, 0);
        const int steps = args.group / 64;
        stage = qc_multiply_groups<Tile, Product, Product::kShift, Scales>(args, from, steps, fetch, real);
        if (!qc_gather<Tile>(args, real)) return;
        qc_scale<Tile>(args, from.spot, real, real);
    } else {
        int total[Tile::CountM][Tile::CountN][4];
        stage = qc_multiply_codes<Tile, Product, Product::kShift>(from, fetch, total);
        if (!qc_gather<Tile>(args, total)) return;
        qc_add_parts<Tile>(args, from.spot, total);
        qc_scale<Tile>(args, from.spot, total, real);
    }
    if (slices) {
        if (!ahead) {
            qc::wait<0>();
            qc::sync();
            LowRank::start(fetch_low_rank);
            stage = 0;
        }
        LowRank loop;
        loop.run(real, stage, slices, fetch_low_rank, [](int) {});
    }
    qc_finish<Tile>(args, from.spot, real, true);
}
