/* qc_depthwise_i8, a vector of channels at a time: 64 with AVX-512, 32 with AVX2. A file of a level includes this and
 * calls `depthwise`.
 *
 * Four taps of a vector of channels are four loads; interleaving their bytes in 128-bit lanes (eight shuffles) puts the
 * four taps of a channel side by side, as vpdpbusd sums them: 12 instructions for 256 multiply-accumulates. Windows of
 * up to four rows and three columns whose columns are the groups of four taps share interleaved columns with their
 * neighbours.
 */
#ifndef QC_DEPTHWISE_I8_X86_H
#define QC_DEPTHWISE_I8_X86_H

#include "qc_depthwise_i8.h"
#include "qc_finish_x86.h"

/* Channels of a panel of weights, and of a vector of pixels. */
enum { PANEL = 64, BLOCK = 4 * QC_LANES };

/* The vectors of the epilogue of a block of channels, in lanes. */
typedef struct {
    _Alignas(64) int32_t bias[BLOCK], column_sum[BLOCK];
    _Alignas(64) float factor[BLOCK], float_bias[BLOCK];
} lane_vectors;

static void to_lanes(const void *from, size_t channel, void *to) {
    if (!from) return;
    const char *first = (const char *)from + channel * 4;
    for (size_t q = 0; q < 4; ++q)
        for (size_t lane = 0; lane < QC_LANES / 4; ++lane)
            memcpy((char *)to + (q * (QC_LANES / 4) + lane) * 16, first + (lane * 4 + q) * 16, 16);
}

/* An epilogue that addresses a block of channels from 0 on, in lanes. */
static qc_epilogue in_lanes(const qc_epilogue *e, size_t channel, lane_vectors *vectors) {
    qc_epilogue local = *e;
    to_lanes(e->bias, channel, vectors->bias), local.bias = vectors->bias;
    to_lanes(e->factor, channel, vectors->factor), local.factor = vectors->factor;
    to_lanes(e->float_bias, channel, vectors->float_bias), local.float_bias = vectors->float_bias;
    to_lanes(e->column_sum, channel, vectors->column_sum), local.column_sum = vectors->column_sum;
    return local;
}

/* Four taps of a block, interleaved; those behind the last have weights of zero and may be any that are readable. */
QC_INLINE void interleave(qc_ints inputs[4], const qc_act *input, const int32_t *offsets, size_t taps) {
    qc_ints pixels[4];
    QC_EACH(t) pixels[t] = qc_load_ints(input + offsets[t < taps ? t : 0]);
    const qc_ints low_01 = QC_VECTOR(unpacklo_epi8)(pixels[0], pixels[1]);
    const qc_ints high_01 = QC_VECTOR(unpackhi_epi8)(pixels[0], pixels[1]);
    const qc_ints low_23 = QC_VECTOR(unpacklo_epi8)(pixels[2], pixels[3]);
    const qc_ints high_23 = QC_VECTOR(unpackhi_epi8)(pixels[2], pixels[3]);
    inputs[0] = QC_VECTOR(unpacklo_epi16)(low_01, low_23), inputs[1] = QC_VECTOR(unpackhi_epi16)(low_01, low_23);
    inputs[2] = QC_VECTOR(unpacklo_epi16)(high_01, high_23), inputs[3] = QC_VECTOR(unpackhi_epi16)(high_01, high_23);
}

QC_INLINE void add_products(qc_ints sums[4], const qc_ints inputs[4], const int8_t *weight) {
    QC_EACH(v) sums[v] = qc_add_products(sums[v], inputs[v], qc_load_ints(weight + v * PANEL));
}

/* Positions of one line and a block of channels. */
typedef struct {
    const qc_act *input;    /* of the first position */
    const int8_t *weight;
    const qc_epilogue *epilogue;
    qc_limits limits;
    qc_block result;
    size_t count;           /* of positions */
} line_part;

QC_INLINE void finish_position(line_part *part, const qc_ints sums[4]) {
    qc_finish_block(part->epilogue, &part->limits, sums, 4, true, &part->result);
    ++part->result.row;
    part->result.out += part->result.row_bytes;
}

static void any_window(const qc_depthwise_i8_args *args, line_part part) {
    for (; part.count > 0; --part.count, part.input += args->inner_stride) {
        qc_ints sums[4];
        QC_EACH(v) sums[v] = qc_load_ints(part.epilogue->bias + QC_LANES * v);
        for (size_t t = 0; t < args->taps; t += 4) {
            qc_ints inputs[4];
            interleave(inputs, part.input, args->offsets + t, args->taps - t);
            add_products(sums, inputs, part.weight + t * PANEL);
        }
        finish_position(&part, sums);
    }
}

/* A window of three columns, the first of which is `columns[first]`. The last `fresh` are not those of the position
 * before: they take the places of those left behind. Whether more positions follow.
 */
QC_INLINE bool one_position(const qc_depthwise_i8_args *args, line_part *part, qc_ints columns[3][4], size_t first,
                            size_t fresh) {
    qc_ints sums[4];
    QC_EACH(v) sums[v] = qc_load_ints(part->epilogue->bias + QC_LANES * v);
    QC_UNROLL
    for (size_t c = 0; c < 3; ++c) {
        qc_ints *column = columns[(first + c) % 3];
        if (c >= 3 - fresh) interleave(column, part->input, args->offsets + 4 * c, 4);
        add_products(sums, column, part->weight + c * 4 * PANEL);
    }
    finish_position(part, sums);
    part->input += args->inner_stride;
    return --part->count > 0;
}

QC_INLINE void three_columns(const qc_depthwise_i8_args *args, line_part part, size_t fresh) {
    qc_ints columns[3][4];
    QC_UNROLL
    for (size_t c = 0; c < 3 - fresh; ++c) interleave(columns[c], part.input, args->offsets + 4 * c, 4);
    while (one_position(args, &part, columns, 0, fresh) && one_position(args, &part, columns, fresh % 3, fresh) &&
           one_position(args, &part, columns, 2 * fresh % 3, fresh)) {
    }
}

static void step_of_one(const qc_depthwise_i8_args *args, line_part part) { three_columns(args, part, 1); }
static void step_of_two(const qc_depthwise_i8_args *args, line_part part) { three_columns(args, part, 2); }

/* Whether group g + step of taps lies where group g does for the next position. */
static bool moves_by(const qc_depthwise_i8_args *args, size_t step) {
    if (args->taps != 12) return false;
    for (size_t t = 0; t + 4 * step < args->taps; ++t)
        if ((size_t)(args->offsets[t + 4 * step] - args->offsets[t]) != args->inner_stride) return false;
    return true;
}

QC_INLINE void depthwise(const qc_depthwise_i8_args *args, size_t begin, size_t end) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish), groups = (args->taps + 3) / 4;
    void (*const window)(const qc_depthwise_i8_args *, line_part) =
        moves_by(args, 1) ? step_of_one : moves_by(args, 2) ? step_of_two : any_window;
    for (size_t channel = 0; channel < args->channels; channel += BLOCK) {
        const size_t left = args->channels - channel;
        lane_vectors vectors;
        const qc_epilogue epilogue = in_lanes(&args->epilogue, channel, &vectors);
        const int8_t *weight = args->weight + channel / PANEL * PANEL * groups * 4 + channel % PANEL;
        line_part part = {NULL, weight, &epilogue, qc_limits_of(&epilogue),
                          {begin, 1, 0, left < BLOCK ? left : BLOCK, NULL, args->out_stride * bytes}, 0};
        for (size_t m = begin; m < end; m += part.count) {
            const size_t x = m % args->width, rest = args->width - x;
            part.count = end - m < rest ? end - m : rest;
            part.input = args->input + m / args->width * args->outer_stride + x * args->inner_stride + channel;
            part.result.row = m;
            part.result.out = (char *)args->out + m * part.result.row_bytes + channel * bytes;
            window(args, part);
        }
    }
}

#endif
