/* Products of half-precision activations with packed weights for many rows, by the instructions of warpgroups: what
 * qc_gemm_wn.cuh says of instances without `Post`, of the same packed weights.
 *
 * Weights are operand A, decoded in registers; activations are operand B, which lies in shared memory in the order of
 * the products. A lane holds inputs 16 q + 4 t + 2 u + e of a slice for product t (q = lane % 4, u and e 0 or 1),
 * which is element 8 u + 2 q + e of that product. So of the 32 words of a row of a slice, word 8 q + i goes to place
 * 4 i + q: a transposition, from one part of shared memory to another.
 *
 * While products of a slice are under way, the next one is decoded and transposed: registers of A and the transposed
 * activations are there twice.
 */
#pragma once

#include "qc_gemm_wn.cuh"
#include "qc_warpgroup.h"

QC_DEVICE void qc_wn_multiply(qc_wn_half, float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
    qc::multiply_f16(c, a, b);
}
QC_DEVICE void qc_wn_multiply(qc_wn_half, float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
    qc::multiply_f16(c, a, b);
}
QC_DEVICE void qc_wn_multiply(qc_wn_bfloat, float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
    qc::multiply_bf16(c, a, b);
}
QC_DEVICE void qc_wn_multiply(qc_wn_bfloat, float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
    qc::multiply_bf16(c, a, b);
}

/* Activations of a slice in the order of products, chunks as products of warpgroups want them. The words that a warp
 * writes at once, of four rows, lie in different banks. */
template <class Tile> QC_DEVICE void qc_wn_transpose(unsigned char *to, const unsigned char *from) {
    QC_UNROLL
    for (int i = 0; i < Tile::rows * 8 / Tile::threads; ++i) {
        const int at = (int)qc::thread() + i * Tile::threads, row = at / 8, chunk = at % 8;
        const uint4 four = qc::load_shared<uint4>(from + row * 128 + (chunk ^ row % 2) * 16);
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        QC_UNROLL
        for (int word = 0; word < 4; ++word) {
            const int place = (chunk % 2 * 4 + word) ^ row % 8;
            qc::store_shared(to + row * 128 + place * 16 + chunk / 2 * 4, words[word]);
        }
    }
}

/* The weights of a slice, `(code - zero) * scale`: by sixteen columns, two products at a time. */
template <class Kind, class Code, class Tile>
QC_DEVICE void qc_wn_decode(uint32_t (&a)[Tile::tiles_n][2][2][4], const Code &code, const unsigned char *weights,
                            bool zeros) {
    const qc_wn_groups<Code, Tile> groups(weights, zeros);
    QC_UNROLL
    for (int i = 0; i < Tile::tiles_n; ++i) {
        uint32_t words[Code::words];
        qc_wn_read<Code::words>(words, weights + i * Tile::parts, (int)qc::lane());
        const typename Code::Offsets offsets = code.open(groups.zero[i]);
        QC_UNROLL
        for (int half = 0; half < 2; ++half) {
            code.decode(a[i][half], words, half, offsets);
            QC_UNROLL
            for (int k = 0; k < 8; ++k) {
                uint32_t &pair = a[i][half][k / 4][k % 4];
                pair = Kind::multiply(pair, qc_wn_spread(groups.scale[i], k % 2));
            }
        }
    }
}

template <class Kind, class Code, int Rows, int TilesN, int WarpsN, int Stages>
QC_DEVICE void qc_wgmma_wn(const qc_wn_args &args) {
    typedef qc_wn_tile<Code, Rows, TilesN, WarpsN, 1, Stages> Tile;
    static_assert(Rows * 128 % 1024 == 0 && Rows * 8 % Tile::threads == 0 && WarpsN % 4 == 0, "whole warpgroups");
    constexpr int operand = Rows * 128;
    const int slices = (args.depth + 63) / 64, each = (slices + args.splits - 1) / args.splits;
    const int first = (int)qc::block_z() * each, last = first + each < slices ? first + each : slices;
    unsigned char *stages = qc::shared() + 2 * operand;
    static_assert(Code::table_bytes == 0, "operands come first");

    qc_wn_source<Code, Tile> source(args, first, slices);
    QC_UNROLL
    for (int i = 0; i < Stages - 1; ++i) {
        if (first + i < last) source.fetch(args, stages + i * Tile::stage);
        qc::commit();
    }
    Code code;
    code.prepare(args.table, qc::shared());
    float total[TilesN][Tile::tiles_m][4] = {};
    if (args.rank && qc::block_z() == 0) qc_wn_low_rank_sums<Kind, Tile>(total, args);
    /* Where sums come out of branches instead of this, the assembler lets the products wait for one another. */
    const float inverse = qc::divide(1.0f, args.tensor_scale);
    QC_UNROLL
    for (int i = 0; i < TilesN * Tile::tiles_m * 4; ++i) {
        float &one = total[i / 4 / Tile::tiles_m][i / 4 % Tile::tiles_m][i % 4];
        one = qc::multiply(one, inverse);
    }

    int full = 0, empty = (Stages - 1) * Tile::stage;
    const auto turn = [&](int slice, uint32_t(&a)[TilesN][2][2][4], unsigned char *inputs) {
        qc::wait<Stages - 2>();
        qc::sync();
        if (slice + Stages - 1 < last) source.fetch(args, stages + empty);
        qc::commit();
        qc_wn_transpose<Tile>(inputs, stages + full);
        const unsigned char *weights = stages + full + Rows * 128 + Tile::warp_n() * TilesN * Tile::parts;
        qc_wn_decode<Kind, Code, Tile>(a, code, weights, args.zero != nullptr);
        empty = full;
        full = full == (Stages - 1) * Tile::stage ? 0 : full + Tile::stage;
        qc::expose();
        qc::sync();
        qc::settle();
        const uint64_t right = qc::describe(inputs);
        QC_UNROLL
        for (int k = 0; k < 4; ++k) {
            QC_UNROLL
            for (int i = 0; i < TilesN; ++i)
                qc_wn_multiply(Kind(), total[i], a[i][k / 2][k % 2], qc::further(right, k * 32));
        }
        qc::close();
        qc::await<1>();
    };
    uint32_t even[TilesN][2][2][4], odd[TilesN][2][2][4];
    int slice = first;
    for (; slice + 1 < last; slice += 2) {
        turn(slice, even, qc::shared());
        turn(slice + 1, odd, qc::shared() + operand);
    }
    if (slice < last) turn(slice, even, qc::shared());
    QC_UNROLL
    for (int i = 0; i < TilesN; ++i) qc::await<0>(total[i]);
    qc_wn_gather<Kind, Code, Tile, false>(args, total);
}
