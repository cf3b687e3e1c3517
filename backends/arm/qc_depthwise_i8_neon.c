/* smull and sadalp over pairs of taps: weights as [.][16 channels][2], the bytes of two pixels interleaved alike, so
 * that the pairwise sum of products is that of a channel.
 *
 * Inner loop of 4 positions x 16 channels x 2 taps: for each position 2 loads, 2 interleavings, 4 smull and 4 sadalp,
 * which is 128 MAC in 48 instructions, and 3 for offsets and weights.
 */
#include "qc_depthwise_i8_arm.h"

enum { GROUP = 2 };

/* Eight channels. */
#define QC_EIGHT(p, h, zip)                                                                                            \
    do {                                                                                                               \
        const int8x16_t both = zip(a, b);                                                                              \
        sum[p][2 * (h)] = vpadalq_s16(sum[p][2 * (h)], vmull_s8(vget_low_s8(both), vget_low_s8(w[h])));                \
        sum[p][2 * (h) + 1] = vpadalq_s16(sum[p][2 * (h) + 1], vmull_high_s8(both, w[h]));                             \
    } while (0)
#define QC_POSITION(p)                                                                                                 \
    if (p < positions) {                                                                                               \
        const int8x16_t a = vld1q_s8(bases[p] + c + at[0]), b = taps > 1 ? vld1q_s8(bases[p] + c + at[1]) : zero;      \
        QC_EIGHT(p, 0, vzip1q_s8);                                                                                     \
        QC_EIGHT(p, 1, vzip2q_s8);                                                                                     \
    }

/* Adds the products of one or two taps. */
QC_INLINE void add_taps(
    int32x4_t sum[QC_POSITIONS][4], const int8_t *const bases[], size_t c, const int32_t *at, const int8_t *weight,
    const int positions, const int taps) {
    const int8x16_t zero = vdupq_n_s8(0);
    const int8x16_t w[2] = {vld1q_s8(weight), vld1q_s8(weight + 16)};
    QC_EACH_POSITION(QC_POSITION)
}

/* Two taps of channels 0 to 7 and 8 to 15, then the other two. */
QC_INLINE qc_four load_column(const int8_t *pixel, const int32_t *at) {
    const int8x16_t a = vld1q_s8(pixel + at[0]), b = vld1q_s8(pixel + at[1]);
    const int8x16_t c = vld1q_s8(pixel + at[2]), d = vld1q_s8(pixel + at[3]);
    return (qc_four){{vzip1q_s8(a, b), vzip2q_s8(a, b), vzip1q_s8(c, d), vzip2q_s8(c, d)}};
}

QC_INLINE qc_sums add_column(qc_sums sum, qc_four column, qc_four weight) {
    for (int i = 0; i < 4; ++i) {
        const int h = i % 2 * 2;
        const int8x8_t few = vget_low_s8(column.v[i]), few_weights = vget_low_s8(weight.v[i]);
        sum.v[h] = vpadalq_s16(sum.v[h], vmull_s8(few, few_weights));
        sum.v[h + 1] = vpadalq_s16(sum.v[h + 1], vmull_high_s8(column.v[i], weight.v[i]));
    }
    return sum;
}

#include "qc_depthwise_i8_tile.h"

void qc_depthwise_i8_neon(const qc_depthwise_i8_args *args, size_t begin, size_t end) {
    all_blocks(args, begin, end);
}
