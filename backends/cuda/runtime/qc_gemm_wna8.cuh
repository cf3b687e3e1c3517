/* Product of int8 inputs and weights of 4 or 2 bits, as `qc_product.cuh` says.
 *
 * Weights are two's complement. A row is runs of 16 bytes, 128 / Bits codes: byte b of a run holds the codes b, 16 +
 * b, 32 + b ... from the lowest bits on (`integer_packing.interleave`). So the 4 bytes that a load of matrices gives a lane
 * are, field by field, what the lane needs for an instruction over 32 codes, and a field becomes a byte by one shift
 * and one mask: as the highest bits of the byte, that is 2^(8 - Bits) times the code, which is taken back from the
 * sum. No sum overflows below 131072 codes.
 */
#pragma once

#include "qc_sums.cuh"

template <int Bits> struct qc_narrow {
    typedef int Total;
    static constexpr int kWeightBytes = 2 * Bits, kPlanes = 1, kShift = 8 - Bits;
    static constexpr uint32_t kTop = Bits == 4 ? 0xf0f0f0f0u : 0xc0c0c0c0u;
    static QC_MEMBER void left(uint32_t (&out)[4], const uint32_t (&a)[4], int) {
        QC_UNROLL
        for (int i = 0; i < 4; ++i) out[i] = a[i];
    }
    static QC_MEMBER void right(uint32_t (&out)[2], const uint32_t (&b)[1], int step, int) {
        const int first = Bits == 4 ? 0 : step % 2 * 2;
        out[0] = b[0] << (kShift - first * Bits) & kTop, out[1] = b[0] << (kShift - (first + 1) * Bits) & kTop;
    }
    static QC_MEMBER void multiply(int (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        qc::mma_s8(total, a, b);
    }
};

template <class Tile, int Bits> QC_DEVICE void qc_gemm_wna8(const qc_product_args &args) {
    typedef qc_narrow<Bits> Product;
    constexpr int run = 128 / Bits;
    const qc_source<Tile, Product> from(args, qc_spot_of_block(), args.depth, (args.depth + run - 1) / run * 16);
    const auto fetch = [&](unsigned char *to, int i) { from.fetch(to, i); };
    qc_loop<Tile, Product>::start(fetch);
    int total[Tile::CountM][Tile::CountN][4];
    qc_multiply_codes<Tile, Product, Product::kShift>(from, fetch, total);
    if (qc_gather<Tile>(args, total)) qc_finish<Tile>(args, from.spot, total, false);
}

template <class Tile, int Bits, qc_scales Scales> QC_DEVICE void qc_gemm_wna8_groups(const qc_product_args &args) {
    typedef qc_narrow<Bits> Product;
    constexpr int run = 128 / Bits;
    const qc_source<Tile, Product> from(args, qc_spot_of_block(), args.depth, (args.depth + run - 1) / run * 16);
    const auto fetch = [&](unsigned char *to, int i) { from.fetch(to, i); };
    qc_loop<Tile, Product>::start(fetch);
    float real[Tile::CountM][Tile::CountN][4] = {};
    qc_multiply_groups<Tile, Product, Product::kShift, Scales>(args, from, args.group / 32, fetch, real);
    if (qc_gather<Tile>(args, real)) qc_finish<Tile>(args, from.spot, real, false);
}
