/* Product of signs, as `qc_product.cuh` says: a bit is 1 for -1 and 0 for 1, rows are filled up to 16 bytes with zeros.
 *
 *   sum[m, n] = depth - 2 * count of bits in which input[m] and weight[n] differ
 *
 * Where the instruction counts bits that both have set, `and`, the count of bits that differ is ones(input[m]) +
 * ones(weight[n]) - 2 * and; the ones of inputs come of one more product per row of instructions, with ones; those of
 * weights are `column_sum`, which the other kind of kernel does not read.
 */
#pragma once

#include "qc_sums.cuh"

struct qc_b1_xor : qc_plain {
    typedef int Total;
    static QC_MEMBER void multiply(int (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        qc::mma_b1_xor(total, a, b);
    }
};
struct qc_b1_and : qc_plain {
    typedef int Total;
    static QC_MEMBER void multiply(int (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        qc::mma_b1_and(total, a, b);
    }
};

template <class Tile> QC_DEVICE void qc_gemm_b1_xor(const qc_product_args &args) {
    const int size = (args.depth + 127) / 128 * 16;
    const qc_source<Tile, qc_b1_xor> from(args, qc_spot_of_block(), size, size);
    const auto fetch = [&](unsigned char *to, int i) { from.fetch(to, i); };
    qc_loop<Tile, qc_b1_xor>::start(fetch);
    int total[Tile::CountM][Tile::CountN][4];
    qc_multiply_codes<Tile, qc_b1_xor, 0>(from, fetch, total);
    if (!qc_gather<Tile>(args, total)) return;
    QC_UNROLL
    for (int i = 0; i < Tile::CountM; ++i) {
        QC_UNROLL
        for (int j = 0; j < Tile::CountN; ++j) {
            QC_UNROLL
            for (int k = 0; k < 4; ++k) total[i][j][k] = args.depth - 2 * total[i][j][k];
        }
    }
    qc_finish<Tile>(args, from.spot, total, false);
}

template <class Tile> QC_DEVICE void qc_gemm_b1_and(const qc_product_args &args) {
    typedef qc_loop<Tile, qc_b1_and> Loop;
    const int size = (args.depth + 127) / 128 * 16;
    const qc_source<Tile, qc_b1_and> from(args, qc_spot_of_block(), size, size);
    const auto fetch = [&](unsigned char *to, int i) { from.fetch(to, i); };
    Loop::start(fetch);
    int total[Tile::CountM][Tile::CountN][4];
    Loop::clear(total, 0);
    int ones[Tile::CountM][4] = {};
    Loop loop;
    const auto stepped = [&](int set) {
        const uint32_t all[2] = {~0u, ~0u};
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) qc::mma_b1_and(ones[i], loop.a[set][i], all);
    };
    loop.run(total, 0, from.share.count, fetch, stepped);
    const int first = from.spot.column * Tile::TileN + Loop::warp_n() * Tile::WarpN + (int)qc::lane() % 4 * 2;
    const int depth = qc::block_z() == 0 ? args.depth : 0;
    QC_UNROLL
    for (int j = 0; j < Tile::CountN; ++j) {
        QC_UNROLL
        for (int k = 0; k < 4; ++k) {
            const int column = first + j * 8 + k % 2;
            const int weights = column < args.columns && depth ? args.column_sum[column] : 0;
            QC_UNROLL
            for (int i = 0; i < Tile::CountM; ++i) {
                total[i][j][k] = depth - 2 * (ones[i][k] + weights) + 4 * total[i][j][k];
            }
        }
    }
    if (qc_gather<Tile>(args, total)) qc_finish<Tile>(args, from.spot, total, false);
}
