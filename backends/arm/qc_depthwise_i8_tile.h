/* The rest of an ARM version of qc_depthwise_i8, after its add_taps: see qc_depthwise_i8_arm.h. */

/* Sums of a panel: channels 0 to 7 of all positions, then 8 to 15. */
typedef int32_t qc_panel_sums[2][QC_POSITIONS][8];

/* Sums of some positions, whose first pixels start at `bases`, for the channels from c on. */
typedef void qc_panel(
    const qc_depthwise_i8_args *args, const int8_t *const bases[], size_t c, const int8_t *weight, qc_panel_sums sums);

/* All panels of positions [m, m + count). */
QC_INLINE void qc_positions(const qc_depthwise_i8_args *args, size_t m, size_t count, qc_panel *const panel) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    const int8_t *bases[QC_POSITIONS] = {0}, *weight = args->weight;
    qc_pixel_bases(args->input, args->width, args->inner_stride, args->outer_stride, m, m + count, bases);
    for (size_t c = 0; c < args->channels; c += QC_PANEL) {
        qc_panel_sums sums;
        panel(args, bases, c, weight, sums);
        weight += (args->taps + GROUP - 1) / GROUP * GROUP * QC_PANEL;
        for (size_t half = 0, n = c; half < 2 && n < args->channels; ++half, n += 8) {
            char *out = (char *)args->out + (m * args->out_stride + n) * bytes;
            qc_finish_tile(&args->epilogue, (const int32_t(*)[8])sums[half], count, m, n,
                qc_smaller(args->channels - n, 8), out, args->out_stride);
        }
    }
}

#define QC_START(p)                                                                                                    \
    sum[p][0] = sum[p][1] = sum[p][2] = sum[p][3] = vdupq_n_s32(0);
#define QC_STORE(p)                                                                                                    \
    if (p < positions) {                                                                                               \
        vst1q_s32(sums[0][p], sum[p][0]);                                                                              \
        vst1q_s32(sums[0][p] + 4, sum[p][1]);                                                                          \
        vst1q_s32(sums[1][p], sum[p][2]);                                                                              \
        vst1q_s32(sums[1][p] + 4, sum[p][3]);                                                                          \
    }

QC_INLINE void panel(
    const qc_depthwise_i8_args *args, const int8_t *const bases[], size_t c, const int8_t *weight, qc_panel_sums sums,
    const int positions) {
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

static void panel_4(
    const qc_depthwise_i8_args *args, const int8_t *const bases[], size_t c, const int8_t *weight, qc_panel_sums sums) {
    panel(args, bases, c, weight, sums, 4);
}
static void panel_1(
    const qc_depthwise_i8_args *args, const int8_t *const bases[], size_t c, const int8_t *weight, qc_panel_sums sums) {
    panel(args, bases, c, weight, sums, 1);
}

QC_INLINE void all_positions(const qc_depthwise_i8_args *args, size_t begin, size_t end) {
    size_t m = begin;
    for (; m + QC_POSITIONS <= end; m += QC_POSITIONS) qc_positions(args, m, QC_POSITIONS, panel_4);
    for (; m < end; ++m) qc_positions(args, m, 1, panel_1);
}
