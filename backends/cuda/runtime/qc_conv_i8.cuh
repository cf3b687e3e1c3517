/* Convolution of int8 images, as `qc_product.cuh` says of a product whose row m is what the window of place m
 * covers.
 *
 * Images and results are channels-last: input [images, image_height, image_width, channels], out [images *
 * out_height * out_width, columns], weight [columns, window height, window_width, channels]; rows counts the places
 * of all images, depth all numbers of a window. No row of windows is ever stored: the copies to shared memory find
 * 16 channels of one place at a time. Places beside an image are `padding`, the zero point, so that what corrects
 * for zero points (total_bias, or column_sum) is the same everywhere.
 */
#pragma once

#include "qc_sums.cuh"

/* Which inputs a lane copies: its chunk of a slice, of places that lie a fixed number of rows apart. Slices are
 * fetched in order, so that the place in the window moves on by additions. */
template <class Tile> struct qc_window {
    static constexpr int kChunks = Tile::Slice / 16, kAtOnce = Tile::Threads / kChunks, kCount = Tile::TileM / kAtOnce;
    static_assert(Tile::TileM % kAtOnce == 0 && kAtOnce % 8 == 0, "places of chunks repeat after eight rows");
    int image[kCount];  /* places of all images before the row's, or -1 where the row is none */
    int corner[kCount]; /* where its window begins: y * 65536 + x, either may be below 0 */
    int k, tap_y, tap_x, channel;

    QC_MEMBER qc_window(const qc_product_args &args, const qc_spot &spot, int slice) {
        const int area = args.out_height * args.out_width;
        QC_UNROLL
        for (int i = 0; i < kCount; ++i) {
            const int row = spot.row * Tile::TileM + (int)qc::thread() / kChunks + i * kAtOnce, place = row % area;
            const int y = place / args.out_width * args.stride_y - args.padding_y;
            const int x = place % args.out_width * args.stride_x - args.padding_x;
            image[i] = row < args.rows ? row / area * args.image_height * args.image_width : -1;
            corner[i] = y * 65536 + x;
        }
        k = slice * Tile::Slice + (int)qc::thread() % kChunks * 16;
        const int tap = k / args.channels;
        channel = k % args.channels, tap_y = tap / args.window_width, tap_x = tap % args.window_width;
    }

    /* Begins the copies of the next slice. */
    QC_MEMBER void fetch(const qc_product_args &args, unsigned char *to) {
        unsigned char *target = to + qc_place<Tile::Slice>((int)qc::thread() / kChunks, (int)qc::thread() % kChunks);
        const unsigned char *input = (const unsigned char *)args.input;
        QC_UNROLL
        for (int i = 0; i < kCount; ++i) {
            const int x_corner = (int16_t)corner[i], y_corner = (corner[i] - x_corner) / 65536;
            const int y = y_corner + tap_y * args.dilation_y, x = x_corner + tap_x * args.dilation_x;
            const bool inside = image[i] >= 0 && (unsigned)y < (unsigned)args.image_height &&
                                (unsigned)x < (unsigned)args.image_width;
            const int64_t at = (int64_t)(image[i] + y * args.image_width + x) * args.channels + channel;
            const void *from = inside ? (const void *)(input + at) : args.padding;
            qc::copy_async<16>(target + i * kAtOnce * Tile::Slice, from, k < args.depth && from ? 16 : 0);
        }
        k += Tile::Slice, channel += Tile::Slice;
        while (channel >= args.channels) {
            channel -= args.channels;
            if (++tap_x == args.window_width) tap_x = 0, ++tap_y;
        }
    }
};

template <class Tile> QC_DEVICE void qc_conv_i8(const qc_product_args &args) {
    const qc_source<Tile, qc_s8> from(args, qc_spot_of_block(), args.depth, args.depth);
    qc_window<Tile> window(args, from.spot, from.share.first);
    const auto fetch = [&](unsigned char *to, int i) {
        if (i >= from.share.count) return;
        window.fetch(args, to);
        qc_fetch<Tile::TileN, Tile::Slice, Tile::Threads>(to + Tile::TileM * Tile::Slice, from.weight,
                                                          from.spot.column * Tile::TileN,
                                                          (from.share.first + i) * Tile::Slice);
    };
    qc_loop<Tile, qc_s8>::start(fetch);
    int total[Tile::CountM][Tile::CountN][4];
    qc_multiply_codes<Tile, qc_s8, 0>(from, fetch, total);
    if (qc_gather<Tile>(args, total)) qc_finish<Tile>(args, from.spot, total, false);
}
