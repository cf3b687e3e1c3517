/* Pools of int8 images, which are stored as `qc_images.cuh` says. */
#pragma once

#include "qc_images.cuh"

/* Of the windows of pools: place [y, x] of the result sees the rows stride_y * y - padding_y + dilation_y * i. */
struct qc_image_pool_args {
    const void *input; /* [images, image_height, image_width, channels] */
    void *out;         /* [images, out_height, out_width, channels] */
    int32_t rows;      /* places of all results */
    int32_t channels;
    int32_t image_height;
    int32_t image_width;
    int32_t out_height;
    int32_t out_width;
    int32_t window_height;
    int32_t window_width;
    int32_t stride_y;
    int32_t stride_x;
    int32_t padding_y;
    int32_t padding_x;
    int32_t dilation_y;
    int32_t dilation_x;
    int32_t whole; /* averages: whether what lies around the image counts as zeros; else it does not count */
    int32_t zero;  /* averages: the zero point as stored */
    float scale;   /* averages: of the input */
    float out_scale;
    float zero_point; /* averages: of the result, a code of the program like those that follow */
    float least;
    float most;
    float shift;      /* averages: what is stored less the code */
};

/* Calls `see` with the 16 bytes at each place of a window, row by row, and `beside` for places beside the image. */
template <class Args, class See, class Beside>
QC_DEVICE void qc_see_window(const Args &args, int row, int first, See see, Beside beside) {
    const int area = args.out_height * args.out_width, place = row % area;
    const int top = place / args.out_width * args.stride_y - args.padding_y;
    const int left = place % args.out_width * args.stride_x - args.padding_x;
    const unsigned char *image = (const unsigned char *)args.input + first +
                                 (int64_t)(row / area) * args.image_height * args.image_width * args.channels;
    for (int i = 0; i < args.window_height; ++i) {
        for (int j = 0; j < args.window_width; ++j) {
            const int y = top + i * args.dilation_y, x = left + j * args.dilation_x;
            if ((unsigned)y < (unsigned)args.image_height && (unsigned)x < (unsigned)args.image_width)
                see(qc::load_global<uint4>(image + (int64_t)(y * args.image_width + x) * args.channels));
            else
                beside(y, x);
        }
    }
}

/* The largest code of each window; what lies around the image does not count. */
QC_DEVICE void qc_image_max(const qc_image_pool_args &args) {
    const int64_t lane = qc_lane_of_grid();
    const int chunks = args.channels / 16, row = (int)(lane / chunks), first = (int)(lane % chunks) * 16;
    if (lane >= (int64_t)args.rows * chunks) return;
    uint32_t most[4] = {0x80808080u, 0x80808080u, 0x80808080u, 0x80808080u};
    const auto see = [&](const uint4 &seen) {
        most[0] = qc::most_bytes(most[0], seen.x), most[1] = qc::most_bytes(most[1], seen.y);
        most[2] = qc::most_bytes(most[2], seen.z), most[3] = qc::most_bytes(most[3], seen.w);
    };
    qc_see_window(args, row, first, see, [](int, int) {});
    qc::store_global((unsigned char *)args.out + (int64_t)row * args.channels + first,
                     make_uint4(most[0], most[1], most[2], most[3]));
}

/* The mean of each window: clip(round(sum((stored - zero) * scale) / count / out_scale + zero_point)). With `whole` the
 * count is that of places as far as the padding reaches. */
QC_DEVICE void qc_image_average(const qc_image_pool_args &args) {
    const int64_t lane = qc_lane_of_grid();
    const int chunks = args.channels / 16, row = (int)(lane / chunks), first = (int)(lane % chunks) * 16;
    if (lane >= (int64_t)args.rows * chunks) return;
    float sum[16];
    int codes[16], count = 0;
    QC_UNROLL
    for (int i = 0; i < 16; ++i) sum[i] = 0.0f;
    const auto see = [&](const uint4 &seen) {
        ++count;
        QC_UNROLL
        for (int i = 0; i < 16; ++i)
            sum[i] = qc::add(sum[i], qc::multiply(qc::to_float(qc_byte(seen, i) - args.zero), args.scale));
    };
    qc_see_window(args, row, first, see, [&](int y, int x) {
        count += args.whole && y < args.image_height + args.padding_y && x < args.image_width + args.padding_x;
    });
    QC_UNROLL
    for (int i = 0; i < 16; ++i) {
        const float mean = qc::divide(qc::divide(sum[i], qc::to_float(count)), args.out_scale);
        const float code = qc::to_float(qc::round_even(qc::add(mean, args.zero_point)));
        codes[i] = (int)qc::add(qc_clipped(code, args.least, args.most), args.shift);
    }
    qc::store_global((unsigned char *)args.out + (int64_t)row * args.channels + first, qc_sixteen(codes));
}
