/* qc_gemv_wna8 with tbl: sixteen outputs look up the sums of four of their inputs at once.
 *
 * Inner loop, 32 outputs by 16 inputs of a plane: 4 loads of pairs of tables, 2 of places, 8 operations that unpack
 * these, 16 tbl, 12 sums of bytes (four of 0 to 60, or of -32 to 28, fit a byte) and 8 that widen them to 16 bits: 512
 * MAC of one bit in 50 instructions, 10.2 each.
 */
#include "qc_gemv_wna8_rows.h"
#include "qc_order_neon.h"

/* Sums of four neighbouring pairs x, y of inputs: 0, x, y and x + y of each. */
QC_INLINE void pair_sums(uint8x16_t inputs, uint8x16_t sums[2]) {
    const uint8x16_t x = vuzp1q_u8(inputs, inputs), y = vuzp2q_u8(inputs, inputs);
    const uint16x8_t zero_x = vreinterpretq_u16_u8(vzip1q_u8(vdupq_n_u8(0), x));
    const uint16x8_t y_both = vreinterpretq_u16_u8(vzip1q_u8(y, vaddq_u8(x, y)));
    sums[0] = vreinterpretq_u8_u16(vzip1q_u16(zero_x, y_both));
    sums[1] = vreinterpretq_u8_u16(vzip2q_u16(zero_x, y_both));
}

/* The table of group `i` of two: the sums of its first pair four times, plus each sum of its second pair. */
QC_INLINE uint8x16_t group_sums(uint8x16_t pairs, int i) {
    const uint8x16_t second = {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7};
    const uint8x16_t places = vaddq_u8(second, vdupq_n_u8((uint8_t)(8 * i)));
    const uint32x4_t words = vreinterpretq_u32_u8(pairs);
    const uint32x4_t first = i ? vdupq_laneq_u32(words, 2) : vdupq_laneq_u32(words, 0);
    return vaddq_u8(vreinterpretq_u8_u32(first), vqtbl1q_u8(pairs, places));
}

/* Tables of some groups, a multiple of four: of the low and of the high halves of their inputs in turn. */
static void make_tables(const int8_t *input, size_t groups, uint8_t *to) {
    for (size_t j = 0; j < groups; j += 4, input += 16, to += 4 * QC_GEMV_TABLES) {
        const int8x16_t both = vld1q_s8(input);
        uint8x16_t low[2], high[2];
        pair_sums(vandq_u8(vreinterpretq_u8_s8(both), vdupq_n_u8(15)), low);
        pair_sums(vreinterpretq_u8_s8(vshrq_n_s8(both, 4)), high);
        QC_UNROLL for (int g = 0; g < 4; ++g) {
            vst1q_u8(to + g * QC_GEMV_TABLES, group_sums(low[g / 2], g % 2));
            vst1q_u8(to + g * QC_GEMV_TABLES + 16, group_sums(high[g / 2], g % 2));
        }
    }
}

/* Sums of a plane so far: of low and of high halves, eight outputs in each vector. */
typedef struct {
    uint16x8_t low[4];
    int16x8_t high[4];
} plane_sums;

/* Sixteen outputs of four groups. */
QC_INLINE void look_up(plane_sums *sums, const uint8x16_t *places, const uint8x16_t *table, int half) {
    uint8x16_t low = vqtbl1q_u8(table[0], places[0]), high = vqtbl1q_u8(table[1], places[0]);
    QC_UNROLL for (int g = 1; g < 4; ++g) {
        low = vaddq_u8(low, vqtbl1q_u8(table[2 * g], places[g]));
        high = vaddq_u8(high, vqtbl1q_u8(table[2 * g + 1], places[g]));
    }
    const int8x16_t signs = vreinterpretq_s8_u8(high);
    sums->low[2 * half] = vaddw_u8(sums->low[2 * half], vget_low_u8(low));
    sums->low[2 * half + 1] = vaddw_high_u8(sums->low[2 * half + 1], low);
    sums->high[2 * half] = vaddw_s8(sums->high[2 * half], vget_low_s8(signs));
    sums->high[2 * half + 1] = vaddw_high_s8(sums->high[2 * half + 1], signs);
}

QC_INLINE void four_groups(plane_sums *sums, const uint8_t *codes, const uint8_t *from) {
    uint8x16_t both[4], table[8], places[4];
    QC_UNROLL for (int i = 0; i < 8; ++i) table[i] = vld1q_u8(from + 16 * i);
    QC_UNROLL for (int g = 0; g < 4; ++g) both[g] = vld1q_u8(codes + 16 * g);
    QC_LOADED(table);
    QC_LOADED(table + 4);
    QC_LOADED(both);
    QC_UNROLL for (int g = 0; g < 4; ++g) places[g] = vandq_u8(both[g], vdupq_n_u8(15));
    look_up(sums, places, table, 0);
    QC_UNROLL for (int g = 0; g < 4; ++g) places[g] = vshrq_n_u8(both[g], 4);
    look_up(sums, places, table, 1);
}

/* Adds `factor` times the sums of one plane over some groups to the totals of 32 outputs. */
QC_INLINE void add_plane(int32x4_t *totals, const uint8_t *codes, const uint8_t *from, size_t groups, int16_t factor) {
    plane_sums sums;
    QC_UNROLL for (int i = 0; i < 4; ++i) sums.low[i] = vdupq_n_u16(0), sums.high[i] = vdupq_n_s16(0);
    size_t left = groups / 4;
    for (; left >= 2; left -= 2, codes += 128, from += 8 * QC_GEMV_TABLES) {
        four_groups(&sums, codes, from);
        four_groups(&sums, codes + 64, from + 4 * QC_GEMV_TABLES);
    }
    if (left) four_groups(&sums, codes, from);
    QC_UNROLL for (int i = 0; i < 4; ++i) {
        const int16x8_t low = vreinterpretq_s16_u16(sums.low[i]), high = sums.high[i];
        totals[2 * i] = vmlal_n_s16(totals[2 * i], vget_low_s16(low), factor);
        totals[2 * i + 1] = vmlal_high_n_s16(totals[2 * i + 1], low, factor);
        totals[2 * i] = vmlal_n_s16(totals[2 * i], vget_low_s16(high), (int16_t)(16 * factor));
        totals[2 * i + 1] = vmlal_high_n_s16(totals[2 * i + 1], high, (int16_t)(16 * factor));
    }
}

QC_INLINE int32x4_t four_bytes(const uint8_t *at) {
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(at)))));
}

/* Totals begin as zero points times sums of inputs. */
QC_INLINE void start_totals(int32x4_t *totals, const uint8_t *zeros, int32_t common, int32_t given) {
    if (zeros) {
        QC_UNROLL for (int i = 0; i < 8; ++i) totals[i] = vmulq_n_s32(four_bytes(zeros + 4 * i), given);
    } else {
        QC_UNROLL for (int i = 0; i < 8; ++i) totals[i] = vdupq_n_s32(common * given);
    }
}

static void add_blocks(const stretch *s, size_t panel, float *results) {
    const qc_gemv_wna8_args *args = s->args;
    const qc_gemv_division *d = &s->division;
    const size_t planes = args->planes, first = panel * d->blocks * QC_GEMV_PANEL;
    const uint8_t *from = s->tables;
    const uint8_t *codes =
        args->weight + panel * qc_gemv_panel_bytes(args, d) + s->begin * d->full * planes * 16;
    for (size_t g = s->begin; g < s->end; ++g, from += d->full * QC_GEMV_TABLES) {
        const size_t groups = g + 1 < d->blocks ? d->full : d->last, at = first + g * QC_GEMV_PANEL;
        const int32_t given = args->input_sum[s->row * d->blocks + g];
        const float factor = args->input_scale[s->row * d->blocks + g];
        int32x4_t totals[8];
        start_totals(totals, args->zero ? args->zero + at : NULL, args->common_zero, -given);
        for (size_t i = 0; i < planes; ++i, codes += groups * 16)
            add_plane(totals, codes, from, groups, (int16_t)(args->step << i));
        QC_UNROLL for (int i = 0; i < 8; ++i) {
            const float32x4_t scale = vmulq_n_f32(vld1q_f32(args->scale + at + 4 * i), factor);
            vst1q_f32(results + 4 * i, vfmaq_f32(vld1q_f32(results + 4 * i), vcvtq_f32_s32(totals[i]), scale));
        }
    }
}

void qc_gemv_wna8_neon(const qc_gemv_wna8_args *args, size_t begin, size_t end) { by_rows(args, begin, end); }
