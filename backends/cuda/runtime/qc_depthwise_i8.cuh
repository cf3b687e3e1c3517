/* Convolution of int8 images channel by channel, as `qc_product.cuh` says of sums over the window alone:
 *
 *   sum[m, n] = sum over taps t of input[place t of window m, n] * weight[t, n]
 *
 * Layouts as in `qc_conv_i8.cuh`, but weight [window height * window_width, columns], and depth counts the taps; columns
 * are the channels. A lane takes four channels of a place; four taps of a channel make one word by exchanging bytes, so
 * that one instruction multiplies them.
 */
#pragma once

#include "qc_product.cuh"

/* Four words of four bytes, seen as rows, to words of their columns. */
QC_DEVICE void qc_transpose_bytes(uint32_t (&word)[4]) {
    const uint32_t even = qc::choose_bytes(word[0], word[1], 0x5140), odd = qc::choose_bytes(word[0], word[1], 0x7362);
    const uint32_t next = qc::choose_bytes(word[2], word[3], 0x5140), last = qc::choose_bytes(word[2], word[3], 0x7362);
    word[0] = qc::choose_bytes(even, next, 0x5410), word[1] = qc::choose_bytes(even, next, 0x7632);
    word[2] = qc::choose_bytes(odd, last, 0x5410), word[3] = qc::choose_bytes(odd, last, 0x7632);
}

QC_DEVICE void qc_depthwise_i8(const qc_product_args &args) {
    const int64_t lane = (int64_t)qc::block_x() * qc::threads() + qc::thread();
    const int quads = args.columns / 4, row = (int)(lane / quads), first = (int)(lane % quads) * 4;
    if (lane >= (int64_t)args.rows * quads) return;
    const int area = args.out_height * args.out_width, place = row % area;
    const int top = place / args.out_width * args.stride_y - args.padding_y;
    const int left = place % args.out_width * args.stride_x - args.padding_x;
    const unsigned char *image = (const unsigned char *)args.input + first +
                                 (int64_t)(row / area) * args.image_height * args.image_width * args.columns;
    const unsigned char *weight = (const unsigned char *)args.weight + first;
    const uint32_t outside = args.padding ? qc::load_global<uint32_t>(args.padding) : 0;
    int total[4] = {0, 0, 0, 0};
    for (int tap = 0, i = 0, j = 0; tap < args.depth; tap += 4) {
        uint32_t input[4], factor[4];
        QC_UNROLL
        for (int k = 0; k < 4; ++k) {
            const int y = top + i * args.dilation_y, x = left + j * args.dilation_x;
            const bool real = tap + k < args.depth;
            const bool inside = (unsigned)y < (unsigned)args.image_height && (unsigned)x < (unsigned)args.image_width;
            const int64_t at = (int64_t)(y * args.image_width + x) * args.columns;
            input[k] = !real ? 0 : inside ? qc::load_global<uint32_t>(image + at) : outside;
            factor[k] = real ? qc::load_global<uint32_t>(weight + (int64_t)(tap + k) * args.columns) : 0;
            if (++j == args.window_width) j = 0, ++i;
        }
        qc_transpose_bytes(input), qc_transpose_bytes(factor);
        QC_UNROLL
        for (int k = 0; k < 4; ++k) total[k] = qc::dot4(input[k], factor[k], total[k]);
    }
    const qc_columns<4> columns = qc_columns_at<4>(args, first);
    float real[4];
    qc_reals(columns, qc_row_at(args, row), total, real);
    qc_store_results(args, columns, row, real);
}
