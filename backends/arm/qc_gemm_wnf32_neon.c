/* A weight costs a shift, a mask, a conversion, a difference and a product; for many rows it is made once and read by a
 * tile of 8 rows by 8 outputs: for every 4 inputs 64 fmla by element, 8 loads of activations, 4 or 8 of weights.
 */
#include <arm_neon.h>

#define QC_KERNEL qc_gemm_wnf32_neon
#define QC_COLUMNS 8
#define QC_LANES 4
#define QC_ROWS 8
#define QC_FEW_ROWS 4
#define QC_MANY_PANELS 1
#define QC_PANELS 2

#include "qc_low_bit.h"

typedef uint32x4_t words;
typedef float32x4_t reals;
typedef float32x4_t quad;
typedef uint8x16x4_t entries;

QC_INLINE words load_words(const uint32_t *at) { return vld1q_u32(at); }
QC_INLINE words next(words x, unsigned bits) {
    switch (bits) {
    case 1:
        return vshrq_n_u32(x, 1);
    case 2:
        return vshrq_n_u32(x, 2);
    case 3:
        return vshrq_n_u32(x, 3);
    case 4:
        return vshrq_n_u32(x, 4);
    default:
        return vshrq_n_u32(x, 8);
    }
}
QC_INLINE words with_third_bit(words low, words high) {
    return vorrq_u32(low, vandq_u32(vshlq_n_u32(high, 2), vdupq_n_u32(4)));
}
QC_INLINE reals level(words x, unsigned bits) { return vcvtq_f32_u32(vandq_u32(x, vdupq_n_u32((1u << bits) - 1))); }
QC_INLINE entries load_entries(const float *at) { return vld1q_u8_x4((const uint8_t *)at); }
/* tbl picks bytes: code c becomes bytes 4 * c to 4 * c + 3. */
QC_INLINE reals entry(entries table, words x, unsigned bits) {
    const words codes = vandq_u32(x, vdupq_n_u32((1u << bits) - 1));
    const words bytes = vmlaq_u32(vdupq_n_u32(0x03020100), codes, vdupq_n_u32(0x04040404));
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(bytes)));
}
QC_INLINE reals load_bytes(const uint8_t *at) { return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(at))))); }
QC_INLINE reals all_reals(float x) { return vdupq_n_f32(x); }
QC_INLINE reals load_reals(const float *at) { return vld1q_f32(at); }
QC_INLINE void store_reals(float *at, reals x) { vst1q_f32(at, x); }
QC_INLINE reals minus(reals x, reals y) { return vsubq_f32(x, y); }
QC_INLINE reals times(reals x, reals y) { return vmulq_f32(x, y); }
QC_INLINE reals fused(reals x, reals y, reals z) { return vfmaq_f32(z, x, y); }

QC_INLINE quad four_inputs(const float *at) { return vld1q_f32(at); }
QC_INLINE reals add_product(reals acc, reals weight, quad four, int lane) {
    switch (lane) {
    case 0:
        return vfmaq_laneq_f32(acc, weight, four, 0);
    case 1:
        return vfmaq_laneq_f32(acc, weight, four, 1);
    case 2:
        return vfmaq_laneq_f32(acc, weight, four, 2);
    default:
        return vfmaq_laneq_f32(acc, weight, four, 3);
    }
}

#include "qc_gemm_wnf32_tile.h"
