/* Masks of comparisons to bits. */
#ifndef QC_BITS_NEON_H
#define QC_BITS_NEON_H

#include <arm_neon.h>

/* 16 masks of 32 bits to as many of 8. */
static inline uint8x16_t qc_narrow_masks(const uint32x4_t *masks) {
    const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(masks[0]), vreinterpretq_u16_u32(masks[1]));
    const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(masks[2]), vreinterpretq_u16_u32(masks[3]));
    return vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
}

/* 64 masks of 8 bits to a word: cut to one bit each, neighbours are added up to bytes. */
static inline uint64_t qc_bits_of_masks(const uint8x16_t *masks) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    uint8x16_t cut[4];
    for (int i = 0; i < 4; ++i) cut[i] = vandq_u8(masks[i], bit);
    const uint8x16_t quarters = vpaddq_u8(vpaddq_u8(cut[0], cut[1]), vpaddq_u8(cut[2], cut[3]));
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(quarters, quarters)), 0);
}

#endif
