/* qc_exp of sixteen floats at once, the same bits as of one. */
#ifndef QC_EXP_LANES_H
#define QC_EXP_LANES_H

#include "qc_lanes.h"
#include "qc_math.h"

#if defined(QC_EACH)

QC_EACH(qc_exp_lanes(qc_lanes x), qc_exp(x.v[i]))

#else

/* 0 where x is below a limit, a elsewhere. */
QC_INLINE qc_lanes qc_zero_below(qc_lanes a, qc_lanes x, qc_lanes limit) {
#if defined(__AVX512F__)
    return (qc_lanes){_mm512_mask_mov_ps(a.v, _mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), _mm512_setzero_ps())};
#elif defined(__AVX2__) && defined(__FMA__)
    for (int i = 0; i < 2; ++i) a.v[i] = _mm256_andnot_ps(_mm256_cmp_ps(x.v[i], limit.v[i], _CMP_LT_OQ), a.v[i]);
    return a;
#else
    for (int i = 0; i < 4; ++i)
        a.v[i] = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v[i]), vcltq_f32(x.v[i], limit.v[i])));
    return a;
#endif
}

#if defined(__AVX512F__)

QC_INLINE qc_lanes qc_scaled_by_power(qc_lanes x, qc_lanes n) { return (qc_lanes){_mm512_scalef_ps(x.v, n.v)}; }

#else

/* 2^n of whole numbers that were rounded by adding QC_MAGIC. */
QC_INLINE qc_lanes qc_powers_of_two(qc_lanes shifted) {
#if defined(__AVX2__) && defined(__FMA__)
    for (int i = 0; i < 2; ++i) {
        const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(shifted.v[i]), _mm256_set1_epi32(127));
        shifted.v[i] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
    }
#else
    for (int i = 0; i < 4; ++i) {
        const uint32x4_t bits = vaddq_u32(vreinterpretq_u32_f32(shifted.v[i]), vdupq_n_u32(127));
        shifted.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(bits, 23));
    }
#endif
    return shifted;
}

/* In two factors; see qc_exp. */
QC_INLINE qc_lanes qc_scaled_by_power(qc_lanes x, qc_lanes n) {
    const qc_lanes magic = qc_splat(QC_MAGIC), half = qc_fma(n, qc_splat(0.5f), magic);
    const qc_lanes rest = qc_minus(n, qc_minus(half, magic));
    return qc_times(qc_times(x, qc_powers_of_two(half)), qc_powers_of_two(qc_plus(rest, magic)));
}

#endif

QC_INLINE qc_lanes qc_exp_lanes(qc_lanes x) {
    const qc_lanes magic = qc_splat(QC_MAGIC);
    x = qc_at_most(qc_at_least(x, qc_splat(-105.0f)), qc_splat(89.0f));
    const qc_lanes n = qc_minus(qc_fma(x, qc_splat(QC_LOG2_E), magic), magic);
    const qc_lanes r = qc_fma(n, qc_splat(-QC_LN2_LOW), qc_fma(n, qc_splat(-QC_LN2_HIGH), x));
    qc_lanes p = qc_splat(QC_EXP_6);
    p = qc_fma(p, r, qc_splat(QC_EXP_5));
    p = qc_fma(p, r, qc_splat(QC_EXP_4));
    p = qc_fma(p, r, qc_splat(QC_EXP_3));
    p = qc_fma(p, r, qc_splat(QC_EXP_2));
    p = qc_fma(p, r, qc_splat(QC_EXP_1));
    p = qc_fma(qc_times(p, r), r, r);
    return qc_scaled_by_power(qc_zero_below(qc_plus(qc_splat(1.0f), p), x, qc_splat(-104.0f)), n);
}

#endif

#endif
