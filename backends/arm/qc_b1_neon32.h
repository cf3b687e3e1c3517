/* Signs by 128 bits with the 16 registers of armv7: 2 rows against 4 columns. */
#ifndef QC_B1_NEON32_H
#define QC_B1_NEON32_H

#include <arm_neon.h>

#include "qc_b1_tile.h"

#define TILE 2
#define LANES 4

/* One row: four counters, one per column, to four sums of signs. */
static inline void store_sums(const uint16x8_t *counters, int32_t terms, int32_t *sums) {
    uint32x2_t halves[LANES];
    for (int c = 0; c < LANES; ++c) {
        const uint32x4_t sums = vpaddlq_u16(counters[c]);
        halves[c] = vadd_u32(vget_low_u32(sums), vget_high_u32(sums));
    }
    const uint32x4_t all = vcombine_u32(vpadd_u32(halves[0], halves[1]), vpadd_u32(halves[2], halves[3]));
    vst1q_s32(sums, vsubq_s32(vdupq_n_s32(terms), vshlq_n_s32(vreinterpretq_s32_u32(all), 1)));
}

/* Not inlined: the counters need every register. */
static __attribute__((noinline)) void count_tile(const uint8_t *signs, const uint8_t *weight, size_t steps,
                                                 int32_t terms, int32_t *sums) {
    uint16x8_t counters[TILE][LANES];
    for (int r = 0; r < TILE; ++r)
        for (int c = 0; c < LANES; ++c) counters[r][c] = vdupq_n_u16(0);
    do {
        const uint8x16_t a[TILE] = {vld1q_u8(signs), vld1q_u8(signs + 16)};
        for (int c = 0; c < LANES; ++c) {
            const uint8x16_t w = vld1q_u8(weight + 16 * c);
            for (int r = 0; r < TILE; ++r) {
                uint8x16_t differ = veorq_u8(a[r], w);
                /* Not before the column before is done: compilers would start all and run out of registers. */
                if (c > 0) __asm__("" : "+w"(differ) : "w"(counters[r][c - 1]));
                counters[r][c] = vpadalq_u8(counters[r][c], vcntq_u8(differ));
            }
        }
        signs += 16 * TILE;
        weight += 16 * LANES;
    } while (--steps);
    for (int r = 0; r < TILE; ++r) store_sums(counters[r], terms, sums + r * QC_B1_SPAN);
}

static inline void count_rows(const uint64_t *signs, size_t rows, const uint8_t *weight, size_t panels, size_t pairs,
                              int32_t terms, int32_t *sums) {
    (void)rows;
    for (size_t panel = 0; panel < panels; ++panel, weight += pairs * 16 * LANES, sums += LANES)
        count_tile((const uint8_t *)signs, weight, pairs, terms, sums);
}

#define LEVEL ((qc_b1_level){TILE, LANES, 0, count_rows})

#endif
