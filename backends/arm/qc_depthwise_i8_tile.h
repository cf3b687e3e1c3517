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

/* All channels of positions [m, m + count), count <= QC_BLOCK. */
QC_INLINE void block(const qc_depthwise_i8_args *args, size_t m, size_t count) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    const int8_t *bases[QC_BLOCK] = {0}, *weight = args->weight;
    qc_pixel_bases(args->input, args->width, args->inner_stride, args->outer_stride, m, m + count, bases);
    for (size_t c = 0; c < args->channels; c += QC_PANEL) {
        int32_t sums[2][QC_BLOCK][8];
        size_t p = 0;
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
    for (size_t m = begin; m < end; m += QC_BLOCK) block(args, m, qc_smaller(QC_BLOCK, end - m));
}
