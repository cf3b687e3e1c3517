/* sdot by element: weights as [.][8 columns][4], activations read where they lie.
 *
 * Inner loop of 8 rows x 8 columns x 16 inputs: 8 loads of activations, 4 of pairs of weights, 64 sdot, which is 1024
 * MAC in 76 instructions and the loop's own three.
 */
#include "qc_gemm_i8_arm.h"

enum { RUN = 4, STEP = 16 };

/* Inputs 4 * part ... 4 * part + 3 of a step of one row, whose weights are two vectors. `set` is the accumulator: few
 * rows take several in turns, since an sdot waits for the one before on the same accumulator. */
#define QC_SDOT(r, part, left, right)                                                                                  \
    if (r < rows) {                                                                                                    \
        sum[(part) % sets][r][0] = vdotq_laneq_s32(sum[(part) % sets][r][0], left, a[r], part);                        \
        sum[(part) % sets][r][1] = vdotq_laneq_s32(sum[(part) % sets][r][1], right, a[r], part);                       \
    }
#define QC_FIRST(r) QC_SDOT(r, 0, w[0], w[1])
#define QC_SECOND(r) QC_SDOT(r, 1, w[2], w[3])
#define QC_THIRD(r) QC_SDOT(r, 2, w[0], w[1])
#define QC_FOURTH(r) QC_SDOT(r, 3, w[2], w[3])
#define QC_WANTED(r)                                                                                                   \
    if (r < rows) QC_SUMMED_2(sum[0][r]);
#define QC_LOAD_4(from)                                                                                                \
    do {                                                                                                               \
        w[0] = vld1q_s8(from), w[1] = vld1q_s8((from) + 16);                                                           \
        w[2] = vld1q_s8((from) + 32), w[3] = vld1q_s8((from) + 48);                                                    \
        QC_LOADED(w);                                                                                                  \
    } while (0)
#define QC_LOAD(r)                                                                                                     \
    if (r < rows) a[r] = vld1q_s8(row[r] + k);

/* Four inputs. */
#define QC_REST(r)                                                                                                     \
    if (r < rows) {                                                                                                    \
        int32_t four;                                                                                                  \
        memcpy(&four, row[r] + k, sizeof four);                                                                        \
        const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));                                                 \
        sum[0][r][0] = vdotq_s32(sum[0][r][0], left, all);                                                             \
        sum[0][r][1] = vdotq_s32(sum[0][r][1], right, all);                                                            \
    }

#define QC_START(r)                                                                                                    \
    sum[0][r][0] = sum[1][r][0] = sum[2][r][0] = sum[3][r][0] = vdupq_n_s32(0);                                        \
    sum[0][r][1] = sum[1][r][1] = sum[2][r][1] = sum[3][r][1] = vdupq_n_s32(0);
#define QC_POINT(r)                                                                                                    \
    if (r < rows) row[r] = bases[r] + qc_tap(args, t) + whole;
#define QC_SUM(r, h)                                                                                                   \
    vaddq_s32(vaddq_s32(sum[0][r][h], sum[1][r][h]), vaddq_s32(sum[2][r][h], sum[3][r][h]))
#define QC_STORE(r)                                                                                                    \
    if (r < rows) {                                                                                                    \
        vst1q_s32(sums[r], QC_SUM(r, 0));                                                                              \
        vst1q_s32(sums[r] + 4, QC_SUM(r, 1));                                                                          \
    }

QC_INLINE void tile(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *weight, int32_t sums[][QC_PANEL],
    const int rows, const int sets) {
    const ptrdiff_t whole = (ptrdiff_t)(args->depth / STEP * STEP), rest = (ptrdiff_t)(args->depth % STEP);
    int32x4_t sum[4][8][2];
    QC_EACH_ROW(QC_START)
    for (size_t t = 0; t < args->taps; ++t) {
        const int8_t *row[8]; /* counting up to zero saves the loop a comparison */
        QC_EACH_ROW(QC_POINT)
        for (ptrdiff_t k = -whole; k != 0; k += STEP, weight += STEP * QC_PANEL) {
            int8x16_t a[8], w[4];
            QC_EACH_ROW(QC_LOAD)
            QC_LOAD_4(weight);
            QC_EACH_ROW(QC_FIRST)
            QC_EACH_ROW(QC_SECOND)
            QC_EACH_ROW(QC_WANTED)
            QC_LOAD_4(weight + 64);
            QC_EACH_ROW(QC_THIRD)
            QC_EACH_ROW(QC_FOURTH)
            QC_EACH_ROW(QC_WANTED)
        }
        for (ptrdiff_t k = 0; k < rest; k += RUN, weight += RUN * QC_PANEL) {
            const int8x16_t left = vld1q_s8(weight), right = vld1q_s8(weight + 16);
            QC_EACH_ROW(QC_REST)
        }
    }
    QC_EACH_ROW(QC_STORE)
}

static void tile_8(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL]) {
    tile(args, bases, panel, sums, 8, 1);
}
static void tile_4(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL]) {
    tile(args, bases, panel, sums, 4, 1);
}
static void tile_2(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL]) {
    tile(args, bases, panel, sums, 2, 2);
}
static void tile_1(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL]) {
    tile(args, bases, panel, sums, 1, 4);
}

void qc_gemm_i8_dotprod(const qc_gemm_i8_args *args, size_t begin, size_t end) {
    qc_tile *const tiles[4] = {tile_8, tile_4, tile_2, tile_1};
    qc_tiles(args, begin, end, RUN, tiles);
}
