/* Integer matrix product on tensor cores, a scale per row and per column behind it.
 *
 *   total[m, n] = sum over k of input[m, k] * weight[n, k]                              int32
 *   out[m, n]   = float(total) * (input_scale[m] * weight_scale[n]) + bias[n]           each product and sum rounded
 *
 * A block computes TileM x TileN of the result, its warps WarpsM x WarpsN parts of that; Stages slices of 64 inputs are
 * in shared memory or on their way. A row of a slice is four chunks of 16 bytes, of which chunk c of row r lies at place
 * c ^ (r / 2 % 4): eight rows of one chunk, which a load of matrices reads at once, then lie in different banks.
 */
#pragma once

#include "qc_device.h"
#include "qc_store.cuh"

struct qc_gemm_i8_args {
    const int8_t *input;       /* [rows, depth] */
    const int8_t *weight;      /* [columns, depth] */
    const float *input_scale;  /* [rows], or one where input_scales is 0 */
    const float *weight_scale; /* [columns], or one where weight_scales is 0 */
    const float *bias;         /* [columns] or NULL */
    void *out;                 /* [rows, columns] */
    int32_t rows;
    int32_t columns;
    int32_t depth; /* a multiple of 16; what pads it is zero in one of the two */
    int32_t input_scales;
    int32_t weight_scales;
};

template <int Tile, int Threads>
QC_DEVICE void qc_gemm_i8_slice(unsigned char *to, const int8_t *from, int first, int count, int depth, int k) {
    QC_UNROLL
    for (int i = 0; i < Tile * 4 / Threads; ++i) {
        const int chunk = (int)qc::thread() + i * Threads, row = chunk / 4, place = chunk % 4 ^ (row / 2 % 4);
        const int at = k + chunk % 4 * 16;
        const bool inside = first + row < count && at < depth;
        qc::copy_async<16>(to + row * 64 + place * 16, inside ? from + (int64_t)(first + row) * depth + at : from,
                           inside ? 16 : 0);
    }
}

template <class Out, int TileM, int TileN, int WarpsM, int WarpsN, int Stages>
QC_DEVICE void qc_gemm_i8(const qc_gemm_i8_args &args) {
    constexpr int threads = 32 * WarpsM * WarpsN, bytes = (TileM + TileN) * 64;
    constexpr int tiles_m = TileM / WarpsM / 16, tiles_n = TileN / WarpsN / 8;
    static_assert(tiles_n % 2 == 0, "B is loaded sixteen columns at a time");
    const int first_row = (int)qc::block_y() * TileM, first_column = (int)qc::block_x() * TileN;
    const int lane = (int)qc::lane(), warp_m = (int)qc::warp() / WarpsN, warp_n = (int)qc::warp() % WarpsN;
    const int slices = (args.depth + 63) / 64;
    unsigned char *shared = qc::shared();

    int total[tiles_m][tiles_n][4] = {};
    const auto fetch = [&](int slice) {
        if (slice < slices) {
            unsigned char *to = shared + slice % Stages * bytes;
            qc_gemm_i8_slice<TileM, threads>(to, args.input, first_row, args.rows, args.depth, slice * 64);
            qc_gemm_i8_slice<TileN, threads>(to + TileM * 64, args.weight, first_column, args.columns, args.depth,
                                             slice * 64);
        }
        qc::commit();
    };
    QC_UNROLL
    for (int i = 0; i < Stages - 1; ++i) fetch(i);

    for (int slice = 0; slice < slices; ++slice) {
        qc::wait<Stages - 2>();
        qc::sync();
        fetch(slice + Stages - 1);
        const unsigned char *a_at = shared + slice % Stages * bytes, *b_at = a_at + TileM * 64;
        QC_UNROLL
        for (int half = 0; half < 2; ++half) {
            uint32_t a[tiles_m][4], b[tiles_n][2];
            QC_UNROLL
            for (int i = 0; i < tiles_m; ++i) {
                const int row = warp_m * (TileM / WarpsM) + i * 16 + lane % 16, chunk = half * 2 + lane / 16;
                qc::load_matrices(a[i], a_at + row * 64 + (chunk ^ (row / 2 % 4)) * 16);
            }
            QC_UNROLL
            for (int i = 0; i < tiles_n; i += 2) {
                const int row = warp_n * (TileN / WarpsN) + i * 8 + lane / 16 * 8 + lane % 8;
                const int chunk = half * 2 + lane / 8 % 2;
                uint32_t both[4];
                qc::load_matrices(both, b_at + row * 64 + (chunk ^ (row / 2 % 4)) * 16);
                b[i][0] = both[0], b[i][1] = both[1], b[i + 1][0] = both[2], b[i + 1][1] = both[3];
            }
            QC_UNROLL
            for (int i = 0; i < tiles_m; ++i) {
                QC_UNROLL
                for (int j = 0; j < tiles_n; ++j) qc::mma_s8(total[i][j], a[i], b[j]);
            }
        }
    }

    QC_UNROLL
    for (int i = 0; i < tiles_m; ++i) {
        QC_UNROLL
        for (int upper = 0; upper < 2; ++upper) {
            const int row = first_row + warp_m * (TileM / WarpsM) + i * 16 + upper * 8 + lane / 4;
            if (row >= args.rows) continue;
            const float row_scale = args.input_scale[args.input_scales ? row : 0];
            QC_UNROLL
            for (int j = 0; j < tiles_n; ++j) {
                const int column = first_column + warp_n * (TileN / WarpsN) + j * 8 + lane % 4 * 2;
                float reals[2];
                QC_UNROLL
                for (int k = 0; k < 2; ++k) {
                    if (column + k >= args.columns) continue;
                    const float scale = qc::multiply(row_scale, args.weight_scale[args.weight_scales ? column + k : 0]);
                    reals[k] = qc::multiply(qc::to_float(total[i][j][2 * upper + k]), scale);
                    if (args.bias) reals[k] = qc::add(reals[k], args.bias[column + k]);
                }
                qc_store_pair<Out>(args.out, (int64_t)row * args.columns + column, reals, args.columns - column);
            }
        }
    }
}
