/* Activations to symmetric codes, a scale for every Block neighbours of a row.
 *
 *   a = largest |x| of the block; NaN does not count
 *   float32 scales: scale = a / highest, between 2^-149 and the largest float
 *   e8m0:           scale = 2^(floor(log2 a) - floor(log2 highest)), from 2^-127 to 2^127; larger numbers saturate
 *   e4m3:           scale = round(a / highest / outer) * outer, the factor from 2^-9 to 448, the product at least 2^-126
 *   Where a is 0 the scale is 1, of e4m3 its factor.
 *   code = round(x / scale) between lowest and highest, half to even; NaN becomes the lowest
 *
 * Codes in int8, signed nibbles, e4m3, or e2m1, two to a byte, the first in the low half; scales as float32 or, of small
 * floats, as their codes. Codes behind `width` are zero bits.
 *
 * A lane holds eight neighbours, Block / 8 lanes a block. Source: OCP Microscaling Formats 1.0; NVIDIA's NVFP4 (blocks of
 * 16, e4m3, outer float32); the same numbers as qc.choose_qparams and qc.quantize of a program.
 */
#pragma once

#include "qc_codes.cuh"

#define QC_CODES_E2M1 4
enum { QC_SCALES_F32, QC_SCALES_E8M0, QC_SCALES_E4M3 };

struct qc_quantize_blocks_args {
    const void *input; /* [rows, stride], of which `width` count */
    void *out;         /* [rows, out_width] codes */
    void *scale;       /* [rows, out_width / Block] */
    int32_t rows;
    int32_t width;
    int32_t stride;
    int32_t out_width; /* a multiple of Block */
    int32_t format;    /* one of QC_CODES */
    int32_t scales;    /* 0 float32, 1 e8m0, 2 e4m3 */
    float lowest;      /* values of codes */
    float highest;
    float outer; /* of e4m3 scales */
};

/* A float's largest power of two, as the exponent; for subnormal numbers too. */
QC_DEVICE int qc_exponent(float a) {
    const int power = (int)(qc::bits(a) >> 23 & 0xff);
    if (power) return power - 127;
    return (int)(qc::bits(qc::multiply(a, 8388608.0f)) >> 23 & 0xff) - 127 - 23;
}
/* 2^power for -149 to 127. */
QC_DEVICE float qc_power(int power) {
    return qc::from_bits(power < -126 ? 1u << (power + 149) : (uint32_t)(power + 127) << 23);
}
QC_DEVICE float qc_from_e4m3(uint32_t code) {
    const uint32_t power = code >> 3 & 15, fraction = code & 7;
    if (!power) return qc::multiply(qc::to_float((int)fraction), 0.001953125f);
    return qc::from_bits((power + 120) << 23 | fraction << 20);
}
/* e2m1, to nearest, ties to even; beyond 6 it stays 6. */
QC_DEVICE uint32_t qc_to_e2m1(float a) {
    const uint32_t sign = qc::bits(a) >> 28 & 8, size = qc::bits(a) & 0x7fffffffu;
    /* Below 1 the steps are those of float32 at 2^22. */
    const uint32_t small = qc::bits(qc::add(qc::from_bits(size), 4194304.0f)) - 0x4a800000u;
    const uint32_t large = ((size + 0x1fffffu + (size >> 22 & 1)) >> 22) - (126 << 1);
    const uint32_t code = size < 0x3f800000u ? small : large;
    return sign | (code < 7 ? code : 7);
}

/* The scale of a block, and what stands for it in memory. */
QC_DEVICE float qc_block_scale(const qc_quantize_blocks_args &args, float largest, uint32_t &stored) {
    const float empty = largest == 0.0f ? 1.0f : 0.0f;
    if (args.scales == QC_SCALES_E8M0) {
        const int power = qc_exponent(largest) - qc_exponent(args.highest);
        const int kept = empty != 0.0f ? 0 : power < -127 ? -127 : power > 127 ? 127 : power;
        stored = (uint32_t)(kept + 127);
        return qc_power(kept);
    }
    const float ideal = qc::divide(largest, args.highest);
    if (args.scales == QC_SCALES_E4M3) {
        const uint32_t code = qc::to_e4m3(empty != 0.0f ? 1.0f : qc::divide(ideal, args.outer), 0.0f) & 0x7f;
        stored = code ? code : 1;
        return qc::maximum(qc::multiply(qc_from_e4m3(stored), args.outer), 1.17549435e-38f);
    }
    const float kept = qc::minimum(qc::maximum(ideal, 1.40129846e-45f), 3.40282347e38f);
    const float scale = empty != 0.0f ? 1.0f : kept;
    stored = qc::bits(scale);
    return scale;
}

template <class In, int Block, int Threads> QC_DEVICE void qc_quantize_blocks(const qc_quantize_blocks_args &args) {
    const int across = args.out_width / 8;
    const int64_t unit = (int64_t)qc::block_x() * Threads + qc::thread(), row = unit / across;
    const int column = (int)(unit % across) * 8;
    float x[1][8];
    /* Lanes behind the last row hold zeros: their warp needs them. */
    const bool inside = row < args.rows;
    qc_load_row<In, 32>(x, args.input, inside ? row * args.stride : 0, inside ? args.width : 0, args.stride, column / 8);
    float largest = 0.0f;
    QC_UNROLL
    for (int k = 0; k < 8; ++k) largest = qc::maximum(largest, qc::magnitude(x[0][k]));
    QC_UNROLL
    for (int apart = Block / 16; apart; apart /= 2)
        largest = qc::maximum(largest, qc::shuffle_xor(largest, (unsigned)apart));
    uint32_t stored = 0;
    qc_grid grid;
    grid.scale = qc_block_scale(args, largest, stored);
    grid.zero = 0.0f;
    qc_settle_grid(grid, args.lowest, args.highest);
    if (!inside) return;
    QC_UNROLL
    for (int k = 0; k < 8; ++k) x[0][k] = qc_limited(grid, x[0][k]);
    unsigned char *to = (unsigned char *)args.out;
    const int64_t at = row * args.out_width + column;
    if (args.format == QC_CODES_E2M1) {
        uint32_t nibbles = 0;
        QC_UNROLL
        for (int k = 0; k < 8; ++k) nibbles |= qc_to_e2m1(qc_steps(grid, x[0][k])) << 4 * k;
        if (column + 8 > args.width) nibbles &= column < args.width ? (1u << 4 * (args.width - column)) - 1 : 0;
        qc::store_global(to + at / 2, nibbles);
    } else {
        uint2 bytes = args.format == QC_CODES_E4M3 ? qc_e4m3_bytes(grid, x[0]) : qc_bytes(grid, x[0], 0);
        if (column + 8 > args.width) bytes = qc_first_bytes(bytes, args.width - column);
        qc_store_bytes(args, row, column, bytes);
    }
    if (column % Block) return;
    const int64_t place = at / Block;
    if (args.scales == QC_SCALES_F32)
        ((uint32_t *)args.scale)[place] = stored;
    else
        ((uint8_t *)args.scale)[place] = (uint8_t)stored;
}
