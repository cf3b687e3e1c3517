/* Sums of codes whose weights have a scale per group of a column: int32 within a group, float32 from group to group.
 *
 *   real = 0;  for each group, in order: real = fma(float(sum of the group), scale, real)
 *   QC_OF_GROUPS: scale = group_scale[group, n]
 *   QC_OF_BLOCKS: scale = input_group_scale[m, group] * group_scale[group, n], rounded
 *   QC_OF_ZEROS:  as QC_OF_GROUPS, zero points taken from the sum as `qc_group_zeros.cuh` says
 *   QC_OF_MOVED:  as QC_OF_ZEROS, with one zero point of all inputs and none of weights: what it takes from a sum is
 *                 taken when the sum becomes a float, in the same subtraction, which is exact
 *
 * Sums of a group begin at the bits of 3 * 2^22 as a float, so that the bits of what they become are that float plus
 * the sum, exactly, as long as the sum stays below 2^22: one subtraction instead of a conversion, which is slow.
 * Codes of weights (and of inputs) may be multiplied by a power of two in all, 2^`Shift`, that is taken back at the
 * end.
 */
#pragma once

#include "qc_group_zeros.cuh"

/* Where scales of codes lie. */
enum qc_scales { QC_OF_COLUMNS, QC_OF_GROUPS, QC_OF_BLOCKS, QC_OF_ZEROS, QC_OF_MOVED };

/* A product of what was loaded, as it is. */
struct qc_plain {
    static constexpr int kWeightBytes = 16, kPlanes = 1, kShift = 0;
    static QC_MEMBER void left(uint32_t (&out)[4], const uint32_t (&a)[4], int) {
        QC_UNROLL
        for (int i = 0; i < 4; ++i) out[i] = a[i];
    }
    static QC_MEMBER void right(uint32_t (&out)[2], const uint32_t (&b)[2], int, int) { out[0] = b[0], out[1] = b[1]; }
};
struct qc_s8 : qc_plain {
    typedef int Total;
    static QC_MEMBER void multiply(int (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        qc::mma_s8(total, a, b);
    }
};

constexpr float kQcBase = 12582912.0f;

/* kQcBase plus an integer below 2^22 in all, times a power of two. */
QC_DEVICE float qc_start(int more, int shift) { return qc::from_bits(qc::bits(kQcBase) + ((uint32_t)more << shift)); }

/* Operands of a block in memory, and its share of the slices. */
template <class Tile, class Product> struct qc_source {
    qc_rows input, weight;
    qc_spot spot;
    qc_share share;

    QC_MEMBER qc_source(const qc_product_args &args, const qc_spot &spot, int input_size, int weight_size)
        : input{(const unsigned char *)args.input, args.rows, input_size},
          weight{(const unsigned char *)args.weight, args.columns, weight_size}, spot(spot),
          share(qc_share_of_block((input_size + Tile::Slice - 1) / Tile::Slice)) {}

    /* Begins the copies of slice i of the share, where there is one. */
    QC_MEMBER void fetch(unsigned char *to, int i) const {
        if (i < share.count) fetch_of(to, input, weight, share.first + i);
    }
    QC_MEMBER void fetch_of(unsigned char *to, const qc_rows &left, const qc_rows &right, int slice) const {
        constexpr int wide = qc_loop<Tile, Product>::kWeightSlice;
        qc_fetch<Tile::TileM, Tile::Slice, Tile::Threads>(to, left, spot.row * Tile::TileM, slice * Tile::Slice);
        qc_fetch<Tile::TileN, wide, Tile::Threads>(to + Tile::TileM * Tile::Slice, right, spot.column * Tile::TileN,
                                                   slice * wide);
    }
};

/* The reals of a block; `steps` of 32 bytes of inputs make a group. `fetch` as qc_loop::run says; started already. */
template <class Tile, class Product, int Shift, qc_scales Scales, class Fetch>
QC_DEVICE int qc_multiply_groups(const qc_product_args &args, const qc_source<Tile, Product> &from, int steps,
                                 Fetch fetch, float (&real)[Tile::CountM][Tile::CountN][4]) {
    typedef qc_loop<Tile, Product> Loop;
    const int groups = (args.depth + args.group - 1) / args.group, pitch = (args.columns + 1) / 2;
    const int first = (from.spot.column * Tile::TileN + Loop::warp_n() * Tile::WarpN) / 2 + (int)qc::lane() % 4;
    const uint32_t *scales = (const uint32_t *)args.group_scale;
    const int first_row = from.spot.row * Tile::TileM + Loop::warp_m() * Tile::WarpM + (int)qc::lane() / 4;
    int group = from.share.first * Tile::Steps / steps, left = steps;
    constexpr bool zeros = Scales == QC_OF_ZEROS, moved = Scales == QC_OF_MOVED;
    const int base = zeros ? 0 : (int)qc::bits(kQcBase);
    uint32_t group_sum[Tile::CountN] = {};
    uint32_t scale[Tile::CountN];
    float row_scale[2 * Tile::CountM];
    qc_group_zeros<Tile> zero;
    const auto look_ahead = [&] {
        QC_UNROLL
        for (int i = 0; Scales == QC_OF_BLOCKS && i < 2 * Tile::CountM; ++i) {
            const int row = first_row + i * 8;
            const bool inside = group < groups && row < args.rows;
            const int64_t place = (int64_t)row * groups + group;
            row_scale[i] = inside ? qc::load_global<float>(args.input_group_scale + place) : 0;
        }
        QC_UNROLL
        for (int j = 0; j < Tile::CountN; ++j) {
            const bool inside = group < groups && first + 4 * j < pitch;
            const int64_t place = (int64_t)group * pitch + first + 4 * j;
            scale[j] = inside ? qc::load_global<uint32_t>(scales + place) : 0;
            if constexpr (zeros) zero.fetch(args, place, j, inside);
            if (moved) group_sum[j] = qc_group_sums(args, place, inside);
        }
    };
    Loop loop;
    int total[Tile::CountM][Tile::CountN][4];
    Loop::clear(total, base);
    if constexpr (zeros) zero.start(args, first_row);
    look_ahead();
    const auto stepped = [&](int set) {
        if constexpr (zeros) {
            if (args.group_zero) zero.add(loop.a[set]);
        }
        if (--left) return;
        if constexpr (zeros) zero.settle();
        QC_UNROLL
        for (int j = 0; j < Tile::CountN; ++j) {
            const float pair[2] = {qc::from_half((uint16_t)scale[j]), qc::from_half((uint16_t)(scale[j] >> 16))};
            float start[2] = {kQcBase, kQcBase};
            if (moved) {
                const int input_zero = qc::load_global<int>(args.input_zero);
                start[0] = qc_start(input_zero * qc_low_half(group_sum[j]), Shift);
                start[1] = qc_start(input_zero * qc_high_half(group_sum[j]), Shift);
            }
            QC_UNROLL
            for (int i = 0; i < Tile::CountM; ++i) {
                QC_UNROLL
                for (int k = 0; k < 4; ++k) {
                    int word = total[i][j][k];
                    if constexpr (zeros) word = zero.total(word >> Shift, i, j, k) + (int)qc::bits(kQcBase);
                    const float sum = qc::add(qc::from_bits((uint32_t)word), -start[k % 2]);
                    const float step = Scales == QC_OF_BLOCKS ? qc::multiply(row_scale[2 * i + k / 2], pair[k % 2])
                                                              : pair[k % 2];
                    real[i][j][k] = qc::fma(sum, step, real[i][j][k]);
                    total[i][j][k] = base;
                }
            }
        }
        if constexpr (zeros) zero.clear();
        ++group, left = steps;
        look_ahead();
    };
    const int stage = loop.run(total, 0, from.share.count, fetch, stepped);
    if constexpr (!zeros) {
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) {
            QC_UNROLL
            for (int j = 0; j < Tile::CountN; ++j) {
                QC_UNROLL
                for (int k = 0; k < 4; ++k) real[i][j][k] = qc::multiply(real[i][j][k], 1.0f / (1 << Shift));
            }
        }
    }
    return stage;
}

/* The same without groups: one sum all along. */
template <class Tile, class Product, int Shift, class Fetch>
QC_DEVICE int qc_multiply_codes(const qc_source<Tile, Product> &from, Fetch fetch,
                                typename Product::Total (&total)[Tile::CountM][Tile::CountN][4]) {
    qc_loop<Tile, Product> loop;
    qc_loop<Tile, Product>::clear(total, 0);
    const int stage = loop.run(total, 0, from.share.count, fetch, [](int) {});
    if constexpr (Shift != 0) {
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) {
            QC_UNROLL
            for (int j = 0; j < Tile::CountN; ++j) {
                QC_UNROLL
                for (int k = 0; k < 4; ++k) total[i][j][k] >>= Shift;
            }
        }
    }
    return stage;
}
