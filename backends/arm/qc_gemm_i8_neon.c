/* smull and sadalp, for processors without sdot: weights as [.][8 columns][16].
 *
 * Two products of -128 by -128 leave 16 bits, so every product is added to 32 bits at once. Inner loop of 4 rows x 4
 * columns x 16 inputs: 8 loads in 6 instructions, 32 smull, 32 sadalp, which is 256 MAC.
 */
#include "qc_gemm_i8_arm.h"

enum { RUN = 16 };

#define QC_EACH_COLUMN(DO, r) DO(r, 0) DO(r, 1) DO(r, 2) DO(r, 3)
#define QC_LOW(r, c) sum[r][c] = vpadalq_s16(sum[r][c], vmull_s8(vget_low_s8(a), vget_low_s8(w[c])));
#define QC_HIGH(r, c) sum[r][c] = vpadalq_s16(sum[r][c], vmull_high_s8(a, w[c]));
#define QC_ROW(r)                                                                                                      \
    if (r < rows) {                                                                                                    \
        const int8x16_t a = vld1q_s8(row[r] + k);                                                                      \
        QC_EACH_COLUMN(QC_LOW, r)                                                                                      \
        QC_SUMMED(sum[r]);                                                                                             \
        QC_EACH_COLUMN(QC_HIGH, r)                                                                                     \
        QC_SUMMED(sum[r]);                                                                                             \
    }
#define QC_ZERO(r, c) sum[r][c] = vdupq_n_s32(0);
#define QC_START(r) QC_EACH_COLUMN(QC_ZERO, r)
#define QC_POINT(r)                                                                                                    \
    if (r < rows) row[r] = bases[r] + qc_tap(args, t) + whole;
#define QC_STORE(r)                                                                                                    \
    if (r < rows)                                                                                                      \
        vst1q_s32(sums[r], vpaddq_s32(vpaddq_s32(sum[r][0], sum[r][1]), vpaddq_s32(sum[r][2], sum[r][3])));
#define QC_EACH_OF_FOUR(DO) DO(0) DO(1) DO(2) DO(3)

/* Four columns of a panel. */
QC_INLINE void half_tile(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *weight, int32_t sums[][QC_PANEL],
    const int rows) {
    const ptrdiff_t whole = (ptrdiff_t)((args->depth + RUN - 1) / RUN * RUN);
    int32x4_t sum[4][4];
    QC_EACH_OF_FOUR(QC_START)
    for (size_t t = 0; t < args->taps; ++t) {
        const int8_t *row[4];
        QC_EACH_OF_FOUR(QC_POINT)
        for (ptrdiff_t k = -whole; k != 0; k += RUN, weight += RUN * QC_PANEL) {
            const int8x16_t w[4] = {
                vld1q_s8(weight), vld1q_s8(weight + RUN), vld1q_s8(weight + 2 * RUN), vld1q_s8(weight + 3 * RUN)};
            QC_EACH_OF_FOUR(QC_ROW)
        }
    }
    QC_EACH_OF_FOUR(QC_STORE)
}

QC_INLINE void tile(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL],
    const int rows) {
    half_tile(args, bases, panel, sums, rows);
    half_tile(args, bases, panel + 4 * RUN, (int32_t(*)[QC_PANEL])(sums[0] + 4), rows);
}

static void tile_4(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL]) {
    tile(args, bases, panel, sums, 4);
}
static void tile_2(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL]) {
    tile(args, bases, panel, sums, 2);
}
static void tile_1(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL]) {
    tile(args, bases, panel, sums, 1);
}

void qc_gemm_i8_neon(const qc_gemm_i8_args *args, size_t begin, size_t end) {
    qc_tile *const tiles[4] = {NULL, tile_4, tile_2, tile_1};
    qc_tiles(args, begin, end, RUN, tiles);
}
