/* The rest of an ARM version of qc_depthwise_i8, after its add_taps: see qc_depthwise_i8_arm.h. */

#define QC_START(p)                                                                                                    \
    sum[p][0] = sum[p][1] = sum[p][2] = sum[p][3] = vdupq_n_s32(0);
#define QC_STORE(p)                                                                                                    \
    if (p < positions) {                                                                                               \
        vst1q_s32(low[p], sum[p][0]);                                                                                  \
        vst1q_s32(low[p] + 4, sum[p][1]);                                                                              \
        vst1q_s32(high[p], sum[p][2]);                                                                                 \
        vst1q_s32(high[p] + 4, sum[p][3]);                                                                             \
    }

/* Sums of some positions, whose first pixels start at `bases`, for channels c ... c + 7 and c + 8 ... c + 15. */
QC_INLINE void panel(
    const qc_depthwise_i8_args *args, const int8_t *const bases[], size_t c, const int8_t *weight, int32_t low[][8],
    int32_t high[][8], const int positions) {
    int32x4_t sum[QC_POSITIONS][4];
    const int32_t *at = args->offsets, *whole = at + args->taps / GROUP * GROUP;
    QC_EACH_POSITION(QC_START)
    for (; at < whole; at += GROUP, weight += GROUP * QC_PANEL) add_taps(sum, bases, c, at, weight, positions, GROUP);
    const size_t rest = args->taps % GROUP;
    if (rest == 1) add_taps(sum, bases, c, at, weight, positions, 1);
    if (GROUP > 2 && rest == 2) add_taps(sum, bases, c, at, weight, positions, 2);
    if (GROUP > 2 && rest == 3) add_taps(sum, bases, c, at, weight, positions, 3);
    QC_EACH_POSITION(QC_STORE)
}

/* Whether taps are columns of four, each the one before of the next position: see qc_depthwise_i8.h. */
QC_INLINE int has_columns(const qc_depthwise_i8_args *args) {
    if (args->taps != 12) return 0;
    for (size_t t = 0; t < 8; ++t)
        if (args->offsets[t + 4] != args->offsets[t] + (int64_t)args->inner_stride) return 0;
    return 1;
}

QC_INLINE qc_four load_four(const int8_t *from) {
    return (qc_four){{vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32), vld1q_s8(from + 48)}};
}

QC_INLINE void store_sums(qc_sums sum, int32_t low[8], int32_t high[8]) {
    vst1q_s32(low, sum.v[0]);
    vst1q_s32(low + 4, sum.v[1]);
    vst1q_s32(high, sum.v[2]);
    vst1q_s32(high + 4, sum.v[3]);
}

/* The next column is the last of one position, the middle of the next, and the first of the one behind it. */
#define QC_NEXT(last, middle, first)                                                                                   \
    do {                                                                                                               \
        pixel += args->inner_stride;                                                                                   \
        const qc_four column = load_column(pixel, args->offsets);                                                      \
        store_sums(add_column(last, column, weights[2]), *low++, *high++);                                             \
        middle = add_column(middle, column, weights[1]);                                                               \
        first = add_column(none, column, weights[0]);                                                                  \
        if (--count == 0) return;                                                                                      \
    } while (0)

/* Sums of `count` positions side by side, each column loaded once; `pixel` is the first channel of the first. */
QC_INLINE void strip(
    const qc_depthwise_i8_args *args, const int8_t *pixel, const int8_t *weight, size_t count, int32_t low[][8],
    int32_t high[][8]) {
    const qc_four weights[3] = {load_four(weight), load_four(weight + 64), load_four(weight + 128)};
    const qc_sums none = {{vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}};
    qc_sums a = add_column(none, load_column(pixel, args->offsets), weights[0]), b, c;
    pixel += args->inner_stride;
    const qc_four second = load_column(pixel, args->offsets);
    a = add_column(a, second, weights[1]);
    b = add_column(none, second, weights[0]);
    for (;;) {
        QC_NEXT(a, b, c);
        QC_NEXT(b, c, a);
        QC_NEXT(c, a, b);
    }
}

/* All channels of positions [m, m + count), count <= QC_BLOCK; in one row of the image when there are columns. */
QC_INLINE void block(const qc_depthwise_i8_args *args, size_t m, size_t count, int columns) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    const int8_t *bases[QC_BLOCK] = {0}, *weight = args->weight;
    qc_pixel_bases(args->input, args->width, args->inner_stride, args->outer_stride, m, m + count, bases);
    for (size_t c = 0; c < args->channels; c += QC_PANEL) {
        int32_t sums[2][QC_BLOCK][8];
        size_t p = 0;
        if (columns && count > 1) strip(args, bases[0] + c, weight, count, sums[0], sums[1]), p = count;
        for (; p + QC_POSITIONS <= count; p += QC_POSITIONS)
            panel(args, bases + p, c, weight, sums[0] + p, sums[1] + p, QC_POSITIONS);
        for (; p < count; ++p) panel(args, bases + p, c, weight, sums[0] + p, sums[1] + p, 1);
        weight += (args->taps + GROUP - 1) / GROUP * GROUP * QC_PANEL;
        for (size_t half = 0, n = c; half < 2 && n < args->channels; ++half, n += 8) {
            char *out = (char *)args->out + (m * args->out_stride + n) * bytes;
            qc_finish_tile(&args->epilogue, (const int32_t(*)[8])sums[half], count, m, n,
                qc_smaller(args->channels - n, 8), out, args->out_stride);
        }
    }
}

QC_INLINE void all_blocks(const qc_depthwise_i8_args *args, size_t begin, size_t end) {
    const int columns = has_columns(args);
    for (size_t m = begin, count; m < end; m += count) {
        count = qc_smaller(QC_BLOCK, end - m);
        if (columns) count = qc_smaller(count, args->width - m % args->width);
        block(args, m, count, columns);
    }
}
