/* Vectors of four int32 and codes of panels of 8 outputs by QC_DEPTH inputs, for the NEON levels of qc_gemm_wna8. */
#ifndef QC_GEMM_WNA8_ARM_H
#define QC_GEMM_WNA8_ARM_H

#include <arm_neon.h>

#include "qc_low_bit.h"

#define QC_CHUNK (4 * QC_DEPTH)
#define QC_RUN (8 * QC_DEPTH) /* bytes of a run whose codes are bytes */

typedef int32x4_t ints;
typedef float32x4_t reals;

#define QC_OFFSET(bits) ((bits) == 8 ? 128 : 0)

QC_INLINE ints all_ints(int32_t x) { return vdupq_n_s32(x); }
QC_INLINE reals all_reals(float x) { return vdupq_n_f32(x); }
QC_INLINE reals load_reals(const float *at) { return vld1q_f32(at); }
QC_INLINE void store_reals(float *at, reals x) { vst1q_f32(at, x); }
QC_INLINE ints load_bytes(const uint8_t *at) {
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(at)))));
}
QC_INLINE ints plus(ints x, ints y) { return vaddq_s32(x, y); }
QC_INLINE ints product(ints x, ints y) { return vmulq_s32(x, y); }
QC_INLINE ints minus_product(ints x, ints y, ints z) { return vmlsq_s32(x, y, z); }
QC_INLINE reals to_reals(ints x) { return vcvtq_f32_s32(x); }
QC_INLINE reals times(reals x, reals y) { return vmulq_f32(x, y); }
QC_INLINE reals fused(reals x, reals y, reals z) { return vfmaq_f32(z, x, y); }

/* Bits `from` and above of every byte; an immediate shift cannot be by zero. */
QC_INLINE uint8x16_t lowered(uint8x16_t x, int from) {
    switch (from) {
    case 1:
        return vshrq_n_u8(x, 1);
    case 2:
        return vshrq_n_u8(x, 2);
    case 3:
        return vshrq_n_u8(x, 3);
    case 4:
        return vshrq_n_u8(x, 4);
    case 5:
        return vshrq_n_u8(x, 5);
    case 6:
        return vshrq_n_u8(x, 6);
    default:
        return x;
    }
}

/* A field of `bits` bits; nothing needs to be masked at the upper end of the byte. */
QC_INLINE uint8x16_t field(uint8x16_t x, int from, int bits) {
    const uint8x16_t low = lowered(x, from);
    return from + bits == 8 ? low : vandq_u8(low, vdupq_n_u8((uint8_t)((1 << bits) - 1)));
}

/* Vector v of the codes of one run of a chunk: 4 outputs by 4 inputs, or 2 by 8. */
QC_INLINE int8x16_t codes_of(const uint8_t *chunk, unsigned bits, int run, int v) {
    const int each = bits == 3 ? 2 : bits > 4 ? 1 : 8 / (int)bits;
    const uint8_t *at = chunk + 16 * v;
    uint8x16_t codes;
    if (bits == 8) {
        codes = veorq_u8(vld1q_u8(at + run * QC_RUN), vdupq_n_u8(128));
    } else if (bits > 4) {
        codes = vld1q_u8(at + run * QC_RUN);
    } else if (bits == 3 && run >= 6) {
        const uint8x16_t high = lowered(vld1q_u8(at + 2 * QC_RUN), run - 2);
        codes = vorrq_u8(field(vld1q_u8(at + (run - 6) * QC_RUN), 6, 2), vandq_u8(high, vdupq_n_u8(4)));
    } else {
        codes = field(vld1q_u8(at + run / each * QC_RUN), run % each * (int)bits, (int)bits);
    }
    return vreinterpretq_s8_u8(codes);
}

QC_INLINE void decode(const uint8_t *restrict chunk, unsigned bits, uint8_t *restrict to) {
    const int runs = bits == 3 ? 8 : 4;
    QC_UNROLL for (int run = 0; run < runs; ++run) {
        QC_UNROLL for (int v = 0; v < QC_RUN / 16; ++v)
            vst1q_s8((int8_t *)to + QC_RUN * run + 16 * v, codes_of(chunk, bits, run, v));
    }
}

#endif
