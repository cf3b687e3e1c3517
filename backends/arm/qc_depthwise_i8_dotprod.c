/* sdot over four taps: weights as [.][16 channels][4], the bytes of four pixels interleaved alike.
 *
 * Inner loop of 4 positions x 16 channels x 4 taps: for each position 4 loads, 8 interleavings and 4 sdot, which is
 * 256 MAC in 64 instructions, and 6 for offsets and weights. What is left of the taps loads and interleaves less.
 */
#include "qc_depthwise_i8_arm.h"

enum { GROUP = 4 };

/* Channels 4 * i ... 4 * i + 3 of a position: their four taps side by side. */
#define QC_FOUR(p, i, pairs, others, zip)                                                                              \
    sum[p][i] = vdotq_s32(                                                                                             \
        sum[p][i], w[i], vreinterpretq_s8_s16(zip(vreinterpretq_s16_s8(pairs), vreinterpretq_s16_s8(others))));
#define QC_POSITION(p)                                                                                                 \
    if (p < positions) {                                                                                               \
        const int8_t *pixel = bases[p] + c;                                                                            \
        const int8x16_t a = vld1q_s8(pixel + at[0]), b = taps > 1 ? vld1q_s8(pixel + at[1]) : zero;                    \
        const int8x16_t d = taps > 2 ? vld1q_s8(pixel + at[2]) : zero, e = taps > 3 ? vld1q_s8(pixel + at[3]) : zero;  \
        const int8x16_t low = vzip1q_s8(a, b), high = vzip2q_s8(a, b);                                                 \
        const int8x16_t other_low = taps > 2 ? vzip1q_s8(d, e) : zero, other_high = taps > 2 ? vzip2q_s8(d, e) : zero; \
        QC_FOUR(p, 0, low, other_low, vzip1q_s16)                                                                      \
        QC_FOUR(p, 1, low, other_low, vzip2q_s16)                                                                      \
        QC_FOUR(p, 2, high, other_high, vzip1q_s16)                                                                    \
        QC_FOUR(p, 3, high, other_high, vzip2q_s16)                                                                    \
        QC_SUMMED(sum[p]);                                                                                             \
    }

/* Adds the products of one to four taps. */
QC_INLINE void add_taps(
    int32x4_t sum[QC_POSITIONS][4], const int8_t *const bases[], size_t c, const int32_t *at, const int8_t *weight,
    const int positions, const int taps) {
    const int8x16_t zero = vdupq_n_s8(0);
    const int8x16_t w[4] = {vld1q_s8(weight), vld1q_s8(weight + 16), vld1q_s8(weight + 32), vld1q_s8(weight + 48)};
    QC_EACH_POSITION(QC_POSITION)
}

QC_INLINE qc_four load_column(const int8_t *pixel, const int32_t *at) {
    const int8x16_t a = vld1q_s8(pixel + at[0]), b = vld1q_s8(pixel + at[1]);
    const int8x16_t c = vld1q_s8(pixel + at[2]), d = vld1q_s8(pixel + at[3]);
    const int16x8_t low[2] = {vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip1q_s8(c, d))};
    const int16x8_t high[2] = {vreinterpretq_s16_s8(vzip2q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(c, d))};
    return (qc_four){
        {vreinterpretq_s8_s16(vzip1q_s16(low[0], low[1])), vreinterpretq_s8_s16(vzip2q_s16(low[0], low[1])),
         vreinterpretq_s8_s16(vzip1q_s16(high[0], high[1])), vreinterpretq_s8_s16(vzip2q_s16(high[0], high[1]))}};
}

QC_INLINE qc_sums add_column(qc_sums sum, qc_four column, qc_four weight) {
    return (qc_sums){
        {vdotq_s32(sum.v[0], column.v[0], weight.v[0]), vdotq_s32(sum.v[1], column.v[1], weight.v[1]),
         vdotq_s32(sum.v[2], column.v[2], weight.v[2]), vdotq_s32(sum.v[3], column.v[3], weight.v[3])}};
}

#include "qc_depthwise_i8_tile.h"

void qc_depthwise_i8_dotprod(const qc_depthwise_i8_args *args, size_t begin, size_t end) {
    all_blocks(args, begin, end);
}
