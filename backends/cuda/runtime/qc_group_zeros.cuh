/* Zero points beside sums of groups: what is taken from the sum of codes as they are stored.
 *
 *   total[m, n] = sum over the group of input * weight
 *                 - group_zero[group, n] * (sum over the group of input[m]) - input_zero[m] * group_sum[group, n]
 *
 * that is the sum of (input - its zero point) * (weight - its zero point), where group_sum[group, n] is the sum of
 * (weight - zero point) over the codes that exist. Parts that are NULL are left out. Sums of inputs come from the
 * fragments that are multiplied, four codes an instruction.
 */
#pragma once

#include "qc_product.cuh"

QC_DEVICE int qc_input_zero(const qc_product_args &args, int row) {
    return args.input_zero && row < args.rows ? args.input_zero[args.input_zeros ? row : 0] : 0;
}
/* Sums of weights of a pair of columns at `place`, zeros unless it is inside. */
QC_DEVICE uint32_t qc_group_sums(const qc_product_args &args, int64_t place, bool inside) {
    return inside && args.group_sum ? qc::load_global<uint32_t>((const uint32_t *)args.group_sum + place) : 0;
}
QC_DEVICE int qc_low_half(uint32_t pair) { return (int)(pair << 16) >> 16; }
QC_DEVICE int qc_high_half(uint32_t pair) { return (int)pair >> 16; }

template <class Tile> struct qc_group_zeros {
    int row_zero[2 * Tile::CountM], row_sum[2 * Tile::CountM], zero[Tile::CountN][2];
    uint32_t sum[Tile::CountN];

    /* Rows of the lane are `first_row` and every eighth from there on. */
    QC_MEMBER void start(const qc_product_args &args, int first_row) {
        QC_UNROLL
        for (int i = 0; i < 2 * Tile::CountM; ++i) row_zero[i] = qc_input_zero(args, first_row + i * 8), row_sum[i] = 0;
    }
    /* What belongs to the pair of columns at `place`, zeros unless it is inside. */
    QC_MEMBER void fetch(const qc_product_args &args, int64_t place, int j, bool inside) {
        sum[j] = qc_group_sums(args, place, inside);
        const bool asymmetric = inside && args.group_zero;
        const uint32_t two = asymmetric ? qc::load_global<uint16_t>((const uint16_t *)args.group_zero + place) : 0;
        zero[j][0] = (int)(two << 24) >> 24, zero[j][1] = (int)(two << 16) >> 24;
    }
    /* Adds the inputs of an instruction, of rows r and r + 8. */
    QC_MEMBER void add(const uint32_t (&a)[Tile::CountM][4]) {
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) {
            QC_UNROLL
            for (int k = 0; k < 4; ++k) row_sum[2 * i + k % 2] = qc::dot4(a[i][k], 0x01010101u, row_sum[2 * i + k % 2]);
        }
    }
    /* The four lanes of a row hold its inputs together. */
    QC_MEMBER void settle() {
        QC_UNROLL
        for (int i = 0; i < 2 * Tile::CountM; ++i) {
            row_sum[i] += qc::shuffle_xor(row_sum[i], 1);
            row_sum[i] += qc::shuffle_xor(row_sum[i], 2);
        }
    }
    QC_MEMBER void clear() {
        QC_UNROLL
        for (int i = 0; i < 2 * Tile::CountM; ++i) row_sum[i] = 0;
    }
    QC_MEMBER int total(int codes, int i, int j, int k) const {
        const int sums = k % 2 ? qc_high_half(sum[j]) : qc_low_half(sum[j]);
        return codes - row_sum[2 * i + k / 2] * zero[j][k % 2] - row_zero[2 * i + k / 2] * sums;
    }
};
