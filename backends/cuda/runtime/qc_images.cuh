/* What stands between convolutions of int8 images: codes of reals, sums of two images, means of whole images.
 *
 * Images are channels-last, [images, height, width, channels]; channels are a multiple of 16, which some of them only
 * fill up, and stored codes signed bytes: the code of the program plus `shift`. A lane takes 16 channels of a place.
 * Floats are float32, each step rounded apart, sums in the order of the window; round is to nearest even.
 */
#pragma once

#include "qc_codes.cuh"

struct qc_image_codes_args {
    const void *input;    /* reals [images, channels, places] */
    void *out;            /* [images, places, out_channels] */
    int32_t rows;         /* places of all images */
    int32_t places;       /* of an image */
    int32_t channels;
    int32_t out_channels; /* a multiple of 16; those behind `channels` are zero bytes */
    int32_t symmetric;
    float lowest;         /* codes of the program */
    float highest;
    float shift;          /* what is stored less the code */
    float fixed_scale;
    float fixed_zero;
};

/* out = left + right: clip(round(fma(left, left_factor, fma(right, right_factor, constant)))) of codes. */
struct qc_image_add_args {
    const void *left;
    const void *right;
    void *out;
    int32_t rows;
    int32_t width; /* bytes of a row, a multiple of 16 */
    float left_factor;
    float right_factor;
    float constant;
    float left_shift; /* codes are what is stored less these */
    float right_shift;
    float out_shift;
    float least; /* codes of the result */
    float most;
};

/* out = table[input + 128] of bytes as they are stored: any function of one code. */
struct qc_image_table_args {
    const void *input;
    const void *table; /* 256 bytes, the result of the least code first */
    void *out;
    int32_t rows;
    int32_t width; /* bytes of a row, a multiple of 16 */
};

/* out = clip(round(float(sum over places of (stored - zero)) * factor) + zero_point) */
struct qc_image_mean_args {
    const void *input; /* [rows, places, channels] */
    void *out;         /* [rows, channels] */
    int32_t rows;      /* images */
    int32_t places;
    int32_t channels;
    int32_t zero;
    float factor;
    float zero_point;
    float least;
    float most;
};

QC_DEVICE int qc_byte(const uint4 &bytes, int i) {
    const uint32_t word = i / 4 == 0 ? bytes.x : i / 4 == 1 ? bytes.y : i / 4 == 2 ? bytes.z : bytes.w;
    return (int8_t)(word >> 8 * (i % 4));
}
QC_DEVICE uint4 qc_sixteen(const int (&codes)[16]) {
    uint32_t words[4];
    QC_UNROLL
    for (int i = 0; i < 4; ++i) {
        const uint32_t low = qc::choose_bytes((uint32_t)codes[4 * i], (uint32_t)codes[4 * i + 1], 0x0040);
        const uint32_t high = qc::choose_bytes((uint32_t)codes[4 * i + 2], (uint32_t)codes[4 * i + 3], 0x0040);
        words[i] = qc::choose_bytes(low, high, 0x5410);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}
QC_DEVICE float qc_clipped(float x, float least, float most) { return qc::minimum(qc::maximum(x, least), most); }
QC_DEVICE int64_t qc_lane_of_grid() { return (int64_t)qc::block_x() * qc::threads() + qc::thread(); }

template <class In> QC_DEVICE void qc_image_codes(const qc_image_codes_args &args) {
    const int64_t row = qc_lane_of_grid();
    const int first = (int)qc::block_y() * 16, last = args.channels;
    if (row >= args.rows) return;
    const typename In::type *input =
        (const typename In::type *)args.input + (row / args.places * last * args.places + row % args.places);
    const qc_grid grid = qc_choose_grid(args, 0.0f, 0.0f);
    const int offset = qc::round_even(grid.zero + args.shift);
    uint2 out[2];
    QC_UNROLL
    for (int half = 0; half < 2; ++half) {
        float x[8];
        QC_UNROLL
        for (int i = 0; i < 8; ++i) {
            const int channel = first + 8 * half + i;
            x[i] = channel < last ? qc_real(In(), input[(int64_t)channel * args.places]) : 0.0f;
            x[i] = qc_limited(grid, x[i]);
        }
        out[half] = qc_first_bytes(qc_bytes(grid, x, offset), last - first - 8 * half);
    }
    qc::store_global((unsigned char *)args.out + row * args.out_channels + first,
                     make_uint4(out[0].x, out[0].y, out[1].x, out[1].y));
}

QC_DEVICE void qc_image_add(const qc_image_add_args &args) {
    const int64_t at = qc_lane_of_grid() * 16;
    if (at >= (int64_t)args.rows * args.width) return;
    const uint4 left = qc::load_stream<uint4>((const unsigned char *)args.left + at);
    const uint4 right = qc::load_stream<uint4>((const unsigned char *)args.right + at);
    int codes[16];
    QC_UNROLL
    for (int i = 0; i < 16; ++i) {
        const float a = qc::add(qc::to_float(qc_byte(left, i)), -args.left_shift);
        const float b = qc::add(qc::to_float(qc_byte(right, i)), -args.right_shift);
        const float sum = qc::fma(a, args.left_factor, qc::fma(b, args.right_factor, args.constant));
        const float code = qc_clipped(qc::to_float(qc::round_even(sum)), args.least, args.most);
        codes[i] = (int)qc::add(code, args.out_shift);
    }
    qc::store_global((unsigned char *)args.out + at, qc_sixteen(codes));
}

QC_DEVICE void qc_image_table(const qc_image_table_args &args) {
    unsigned char *known = qc::shared();
    if (qc::thread() < 16)
        qc::store_shared(known + 16 * qc::thread(), qc::load_global<uint4>((const uint4 *)args.table + qc::thread()));
    qc::sync();
    const int64_t at = qc_lane_of_grid() * 16;
    if (at >= (int64_t)args.rows * args.width) return;
    const uint4 bytes = qc::load_stream<uint4>((const unsigned char *)args.input + at);
    int codes[16];
    QC_UNROLL
    for (int i = 0; i < 16; ++i) codes[i] = qc::load_shared<uint8_t>(known + (qc_byte(bytes, i) + 128));
    qc::store_global((unsigned char *)args.out + at, qc_sixteen(codes));
}

/* A warp takes 16 channels of an image, its lanes every 32nd place. */
QC_DEVICE void qc_image_mean(const qc_image_mean_args &args) {
    const int chunks = args.channels / 16, lane = (int)qc::lane();
    const int64_t warp = qc_lane_of_grid() / 32, image = warp / chunks;
    const int first = (int)(warp % chunks) * 16;
    if (image >= args.rows) return;
    const unsigned char *input = (const unsigned char *)args.input + image * args.places * args.channels + first;
    int sum[16];
    QC_UNROLL
    for (int i = 0; i < 16; ++i) sum[i] = 0;
    for (int place = lane; place < args.places; place += 32) {
        const uint4 seen = qc::load_global<uint4>(input + (int64_t)place * args.channels);
        QC_UNROLL
        for (int i = 0; i < 16; ++i) sum[i] += qc_byte(seen, i) - args.zero;
    }
    int codes[16];
    QC_UNROLL
    for (int i = 0; i < 16; ++i) {
        QC_UNROLL
        for (int apart = 16; apart; apart /= 2) sum[i] += qc::shuffle_xor(sum[i], (unsigned)apart);
        const float steps = qc::to_float(qc::round_even(qc::multiply(qc::to_float(sum[i]), args.factor)));
        codes[i] = (int)qc_clipped(qc::add(steps, args.zero_point), args.least, args.most);
    }
    if (lane == 0) qc::store_global((unsigned char *)args.out + image * args.channels + first, qc_sixteen(codes));
}
