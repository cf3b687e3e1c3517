/* Signs by 128 bits: 4 rows against 4 columns, 2048 multiply-accumulates by 16 eor, 16 cnt and 16 uadalp.
 *
 * Counts lie in 16 bits: a lane takes at most 16 of every 128 bits, 4096 of the longest row.
 */
#ifndef QC_B1_NEON_H
#define QC_B1_NEON_H

#include <arm_neon.h>

#include "qc_b1_tile.h"

#define TILE 4
#define LANES 4

/* One row: four counters, one per column, to four sums of signs. */
static inline void store_sums(const uint16x8_t *counters, int32_t terms, int32_t *sums) {
    const uint16x8_t low = vpaddq_u16(counters[0], counters[1]), high = vpaddq_u16(counters[2], counters[3]);
    const int32x4_t differ = vreinterpretq_s32_u32(vpaddlq_u16(vpaddq_u16(low, high)));
    vst1q_s32(sums, vsubq_s32(vdupq_n_s32(terms), vshlq_n_s32(differ, 1)));
}

/* One step; the first has nothing to add to. */
static inline __attribute__((always_inline)) void count_step(uint16x8_t counters[TILE][LANES], const uint8_t *signs,
                                                             const uint8_t *weight, const int first) {
    const uint8x16x4_t a = vld1q_u8_x4(signs), w = vld1q_u8_x4(weight);
    for (int r = 0; r < TILE; ++r)
        for (int c = 0; c < LANES; ++c) {
            uint8x16_t differ = veorq_u8(a.val[r], w.val[c]);
            /* Not before the row above is done: compilers would start all at once and run out of registers. */
            if (r > 0) __asm__("" : "+w"(differ) : "w"(counters[r - 1][c]));
            counters[r][c] = first ? vpaddlq_u8(vcntq_u8(differ)) : vpadalq_u8(counters[r][c], vcntq_u8(differ));
        }
}

static void count_tile(const uint8_t *signs, const uint8_t *weight, size_t steps, int32_t terms, int32_t *sums) {
    uint16x8_t counters[TILE][LANES];
    count_step(counters, signs, weight, 1);
    while (--steps) {
        signs += 16 * TILE;
        weight += 16 * LANES;
        count_step(counters, signs, weight, 0);
    }
    for (int r = 0; r < TILE; ++r) store_sums(counters[r], terms, sums + r * QC_B1_SPAN);
}

/* One row, of which a tile would compute three others for nothing. */
static void count_row(const uint8_t *signs, const uint8_t *weight, size_t steps, int32_t terms, int32_t *sums) {
    uint16x8_t counters[LANES];
    for (int c = 0; c < LANES; ++c) counters[c] = vdupq_n_u16(0);
    for (size_t step = 0; step < steps; ++step, signs += 16 * TILE, weight += 16 * LANES) {
        const uint8x16_t a = vld1q_u8(signs);
        const uint8x16x4_t w = vld1q_u8_x4(weight);
        for (int c = 0; c < LANES; ++c) counters[c] = vpadalq_u8(counters[c], vcntq_u8(veorq_u8(a, w.val[c])));
    }
    store_sums(counters, terms, sums);
}

/* Not inlined: the counters need every register. */
static __attribute__((noinline)) void count_rows(const uint64_t *signs, size_t rows, const uint8_t *weight,
                                                 size_t panels, size_t pairs, int32_t terms, int32_t *sums) {
    for (size_t panel = 0; panel < panels; ++panel, weight += pairs * 16 * LANES, sums += LANES) {
        if (rows == 1)
            count_row((const uint8_t *)signs, weight, pairs, terms, sums);
        else
            count_tile((const uint8_t *)signs, weight, pairs, terms, sums);
    }
}

#define LEVEL ((qc_b1_level){TILE, LANES, 0, count_rows})

#endif
