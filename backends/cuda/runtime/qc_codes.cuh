/* Rows of reals to codes: the last step of every kernel that quantizes activations.
 *
 * Dynamic, where fixed_scale is 0:
 *   low = min(0, smallest of the row), high = max(0, largest); NaN does not count
 *   asymmetric: scale = (high - low) / (highest - lowest), zero = clip(round(lowest - low / scale))
 *   symmetric:  scale = max(-low, high) / highest, or only high / highest where lowest is 0, zero = 0
 *   A row of zeros has scale 1 and zero point 0; a scale is kept between 2^-149 and the largest float. Where high - low
 *   overflows, scale = high / (highest - lowest) - low / (highest - lowest).
 * Then code = clip(round(x / scale) + zero), half to even, the division correctly rounded; NaN becomes one at an end.
 *
 * Formats: whole numbers in bytes, stored with `shift` added; signed nibbles, two to a byte, the first in the low half;
 * e4m3, rounded half to even, where `lowest` and `highest` are -448 and 448. With out_width codes to a row, those
 * behind `width` are zero bits. Or reals of the kind that came in, unscaled.
 *
 * Source: ONNX DynamicQuantizeLinear; the same numbers as qc.choose_qparams and qc.quantize of a program.
 */
#pragma once

#include "qc_rows.cuh"

#define QC_CODES_INT8 0
#define QC_CODES_INT4 1
#define QC_CODES_E4M3 2
#define QC_CODES_REAL 3

/* A scale ready to divide by. `power` takes it and what it divides away from the ends of float32; `low` and `high` are
 * the reals of the outermost codes, times it. Most rows are `plain`: nothing in them is above `high`, and the power is 1.
 */
struct qc_grid {
    float scale, zero, power, step, inverse, low, high;
    bool plain;
};

/* What follows from the scale and the zero point. */
QC_DEVICE void qc_settle_grid(qc_grid &grid, float lowest, float highest) {
    /* 2^100 and 2^-70 */
    grid.power = grid.scale < 1.0e-18f ? 1.26765060e30f : grid.scale > 1.0e18f ? 8.47032947e-22f : 1.0f;
    grid.step = qc::multiply(grid.scale, grid.power);
    grid.inverse = qc::divide(1.0f, grid.step);
    grid.low = qc::multiply(lowest - grid.zero, grid.step);
    grid.high = qc::multiply(highest - grid.zero, grid.step);
}

template <class Args> QC_DEVICE qc_grid qc_choose_grid(const Args &args, float low, float high) {
    const float largest = 3.40282347e38f;
    qc_grid grid;
    grid.zero = args.fixed_zero;
    grid.scale = args.fixed_scale;
    if (args.fixed_scale == 0.0f) {
        const float steps = args.highest - args.lowest, reach = high - low;
        const float span = args.symmetric ? (args.lowest < 0.0f ? qc::maximum(-low, high) : high) : reach;
        float scale = qc::divide(span, args.symmetric ? args.highest : steps);
        if (!args.symmetric && span > largest) scale = qc::divide(high, steps) - qc::divide(low, steps);
        grid.scale = span == 0.0f ? 1.0f : qc::minimum(qc::maximum(scale, 1.40129846e-45f), largest);
        const float place = args.symmetric || span == 0.0f ? 0.0f : args.lowest - qc::divide(low, grid.scale);
        const float clipped = qc::minimum(qc::maximum(place, args.lowest), args.highest);
        grid.zero = args.symmetric || span == 0.0f ? 0.0f : qc::to_float(qc::round_even(clipped));
    }
    qc_settle_grid(grid, args.lowest, args.highest);
    grid.plain = args.fixed_scale == 0.0f && args.symmetric && grid.power == 1.0f;
    return grid;
}

/* x / scale of a number times the power, and not above `high`; correctly rounded where it matters, by the rounded
 * inverse and two corrections (Markstein 1990, "Computation of elementary functions on the IBM RISC System/6000
 * processor"). Clipping comes first: the real of an outermost code rounds to that code, and quotients grow with x. */
QC_DEVICE float qc_limited(const qc_grid &grid, float x) { return qc::minimum(qc::multiply(x, grid.power), grid.high); }
QC_DEVICE float qc_steps(const qc_grid &grid, float x) {
    const float y = qc::maximum(x, grid.low);
    float steps = qc::multiply(y, grid.inverse);
    steps = qc::fma(qc::fma(steps, -grid.step, y), grid.inverse, steps);
    return qc::fma(qc::fma(steps, -grid.step, y), grid.inverse, steps);
}
/* A quotient rounded, in the lowest bits: adding 1.5 * 2^23 leaves no others. */
QC_DEVICE uint32_t qc_rounded(const qc_grid &grid, float x) {
    return qc::bits(qc::add(qc_steps(grid, x), 12582912.0f));
}

/* Adds a byte to each of four. */
QC_DEVICE uint32_t qc_add_bytes(uint32_t bytes, int offset) {
    const uint32_t four = (uint32_t)(offset & 0xff) * 0x01010101u;
    return ((bytes & 0x7f7f7f7fu) + (four & 0x7f7f7f7fu)) ^ ((bytes ^ four) & 0x80808080u);
}
/* Eight codes in bytes. */
QC_DEVICE uint2 qc_bytes(const qc_grid &grid, const float (&x)[8], int offset) {
    uint32_t pair[4];
    QC_UNROLL
    for (int i = 0; i < 4; ++i)
        pair[i] = qc::choose_bytes(qc_rounded(grid, x[2 * i]), qc_rounded(grid, x[2 * i + 1]), 0x0040);
    uint2 out = make_uint2(qc::choose_bytes(pair[0], pair[1], 0x5410), qc::choose_bytes(pair[2], pair[3], 0x5410));
    if (offset) out = make_uint2(qc_add_bytes(out.x, offset), qc_add_bytes(out.y, offset));
    return out;
}
QC_DEVICE uint2 qc_e4m3_bytes(const qc_grid &grid, const float (&x)[8]) {
    uint32_t pair[4];
    QC_UNROLL
    for (int i = 0; i < 4; ++i) pair[i] = qc::to_e4m3(qc_steps(grid, x[2 * i]), qc_steps(grid, x[2 * i + 1]));
    return make_uint2(pair[0] | pair[1] << 16, pair[2] | pair[3] << 16);
}
QC_DEVICE uint32_t qc_two_bytes(const qc_grid &grid, float first, float second, int offset, int format) {
    if (format == QC_CODES_E4M3) return qc::to_e4m3(qc_steps(grid, first), qc_steps(grid, second));
    const uint32_t both = qc::choose_bytes(qc_rounded(grid, first), qc_rounded(grid, second), 0x0040);
    return qc_add_bytes(both, offset) & 0xffff;
}
/* Eight signed bytes to eight nibbles. */
QC_DEVICE uint32_t qc_nibbles(uint2 bytes) {
    const uint32_t first = (bytes.x & 0x000f000fu) | (bytes.x >> 4 & 0x00f000f0u);
    const uint32_t second = (bytes.y & 0x000f000fu) | (bytes.y >> 4 & 0x00f000f0u);
    return qc::choose_bytes(first, second, 0x6420);
}
/* The first `count` of eight bytes, zeros behind them. */
QC_DEVICE uint2 qc_first_bytes(uint2 bytes, int count) {
    const uint64_t both = (uint64_t)bytes.y << 32 | bytes.x;
    const uint64_t kept = count >= 8 ? both : count <= 0 ? 0 : both & ((1ull << 8 * count) - 1);
    return make_uint2((uint32_t)kept, (uint32_t)(kept >> 32));
}

/* Stores the codes of a unit and returns their sum. */
template <class Args> QC_DEVICE int qc_store_bytes(const Args &args, int64_t row, int column, uint2 bytes) {
    unsigned char *to = (unsigned char *)args.out;
    if (args.format == QC_CODES_INT4)
        qc::store_global(to + (row * args.out_width + column) / 2, qc_nibbles(bytes));
    else
        qc::store_global(to + row * args.out_width + column, bytes);
    return qc::dot4(bytes.x, 0x01010101u, qc::dot4(bytes.y, 0x01010101u, 0));
}
template <class Args>
QC_DEVICE void qc_store_grid(const Args &args, int64_t row, const qc_grid &grid, int offset, float sum) {
    if (args.scale) args.scale[row] = grid.scale;
    if (args.zero) args.zero[row] = offset;
    if (args.sum) args.sum[row] = qc::round_even(sum);
}

/* Eight neighbours of a row of `width` reals, as far as it reaches. */
template <class In> QC_DEVICE void qc_store_eight(void *out, int width, int64_t row, int column, const float (&x)[8]) {
    typedef typename In::type Element;
    if (column >= width) return;
    Element *to = (Element *)out + row * width + column;
    alignas(16) Element kept[8];
    QC_UNROLL
    for (int i = 0; i < 8; ++i) kept[i] = In::pack(x[i]);
    constexpr int vectors = (int)sizeof(Element) / 2;
    if (width % 8 == 0) {
        QC_UNROLL
        for (int i = 0; i < vectors; ++i) qc::store_global((uint4 *)to + i, ((const uint4 *)kept)[i]);
        return;
    }
    QC_UNROLL
    for (int i = 0; i < 8; ++i)
        if (column + i < width) to[i] = kept[i];
}

/* How far numbers reach: -low and high, or both the largest magnitude. */
template <int Count> QC_DEVICE void qc_reach(float (&reach)[2], const float (&x)[Count], bool magnitudes) {
    if (magnitudes) {
        QC_UNROLL
        for (int k = 0; k < Count; ++k) reach[1] = qc::maximum(reach[1], qc::magnitude(x[k]));
        reach[0] = reach[1];
        return;
    }
    QC_UNROLL
    for (int k = 0; k < Count; ++k) {
        reach[0] = qc::maximum(reach[0], -x[k]);
        reach[1] = qc::maximum(reach[1], x[k]);
    }
}

/* Quantizes and stores a row of which the lane holds the units at `columns`. */
template <class In, int Lanes, int Units, class Args>
QC_DEVICE void qc_store_row(const Args &args, float (&x)[Units][8], const int (&columns)[Units], int64_t row,
                            int lane, float *room) {
    if (args.format == QC_CODES_REAL) {
        QC_UNROLL
        for (int i = 0; i < Units; ++i) qc_store_eight<In>(args.out, args.out_width, row, columns[i], x[i]);
        return;
    }
    float reach[2] = {0.0f, 0.0f};
    if (args.fixed_scale == 0.0f) {
        QC_UNROLL
        for (int i = 0; i < Units; ++i) qc_reach(reach, x[i], args.symmetric && args.lowest < 0.0f);
        qc_combine_row<Lanes>(reach, room, [](float a, float b) { return qc::maximum(a, b); });
    }
    const qc_grid grid = qc_choose_grid(args, -reach[0], reach[1]);
    if (!grid.plain) {
        QC_UNROLL
        for (int i = 0; i < Units; ++i) {
            QC_UNROLL
            for (int k = 0; k < 8; ++k) x[i][k] = qc_limited(grid, x[i][k]);
        }
    }
    const int offset = qc::round_even(grid.zero + args.shift);
    int total = 0;
    QC_UNROLL
    for (int i = 0; i < Units; ++i) {
        if (columns[i] >= args.out_width) continue;
        uint2 bytes = args.format == QC_CODES_E4M3 ? qc_e4m3_bytes(grid, x[i]) : qc_bytes(grid, x[i], offset);
        if (columns[i] + 8 > args.width) bytes = qc_first_bytes(bytes, args.width - columns[i]);
        total += qc_store_bytes(args, row, columns[i], bytes);
    }
    /* Exact: rows are at most 2^15 codes long. */
    float sum[1] = {qc::to_float(total)};
    if (args.sum) qc_combine_row<Lanes>(sum, room + 2 * (Lanes / 32), [](float a, float b) { return a + b; });
    if (lane == 0) qc_store_grid(args, row, grid, offset, sum[0]);
}
