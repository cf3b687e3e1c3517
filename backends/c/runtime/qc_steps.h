/* From reals to bytes of codes, in loops that compilers turn into vectors. */
#ifndef QC_STEPS_H
#define QC_STEPS_H

#include "qc_lanes.h"

/* Adding it leaves the nearest whole number, halves to even, in the last bits of a float. */
#define QC_TO_WHOLE 12582912.0f

/* clip(round(steps) + zero): limits hold before rounding as well as after it, being whole. NaN becomes the lower one. */
QC_INLINE qc_lanes qc_settled(qc_lanes steps, float zero, float lowest, float highest) {
    const qc_lanes magic = qc_splat(QC_TO_WHOLE);
    steps = qc_at_most(qc_at_least(qc_splat(lowest - zero), steps), qc_splat(highest - zero));
    return qc_plus(qc_minus(qc_plus(steps, magic), magic), qc_splat(zero));
}

/* Whole numbers as bytes, negative ones in two's complement. */
QC_INLINE void qc_store_bytes(uint8_t *out, qc_lanes whole) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(whole.v)));
#elif defined(__AVX2__) && defined(__FMA__)
    const __m256i low = _mm256_set1_epi32(255);
    const __m256i a = _mm256_and_si256(_mm256_cvttps_epi32(whole.v[0]), low);
    const __m256i b = _mm256_and_si256(_mm256_cvttps_epi32(whole.v[1]), low);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    _mm_storeu_si128((__m128i *)out, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
#else
    float all[QC_LANES];
    qc_store(all, whole);
    for (size_t i = 0; i < QC_LANES; ++i) out[i] = (uint8_t)(int32_t)all[i];
#endif
}

QC_INLINE void qc_store_some_bytes(uint8_t *out, size_t count, qc_lanes whole) {
    uint8_t all[QC_LANES];
    qc_store_bytes(all, whole);
    for (size_t i = 0; i < count; ++i) out[i] = all[i];
}

/* The quotient x / scale, correctly rounded, by its rounded inverse and two corrections, which take a fraction of the
 * time of a division. Only for scales that qc_can_invert says; quotients that are too small to matter may be wrong in
 * their last places.
 *
 * Source: Markstein 1990, "Computation of elementary functions on the IBM RISC System/6000 processor". */
QC_INLINE qc_lanes qc_quotient(qc_lanes x, float scale, float inverse) {
    const qc_lanes less = qc_splat(-scale), by = qc_splat(inverse);
    qc_lanes q = qc_times(x, by);
    q = qc_fma(qc_fma(q, less, x), by, q);
    return qc_fma(qc_fma(q, less, x), by, q);
}

/* Neither residuals nor the inverse leave the normal numbers, and the processor has fused multiply-adds. */
QC_INLINE int qc_can_invert(float scale) {
#if defined(__FMA__) || defined(__aarch64__) || defined(__ARM_FEATURE_FMA)
    return scale > 1.0e-18f && scale < 1.0e18f;
#else
    (void)scale;
    return 0;
#endif
}

/* Smallest and largest of `width` floats and zero; NaN does not count. */
QC_INLINE void qc_reach(const float *x, size_t width, float *smallest, float *largest) {
    qc_lanes low = qc_splat(0.0f), high = qc_splat(0.0f);
    size_t i = 0;
    for (; i + QC_LANES <= width; i += QC_LANES) {
        const qc_lanes some = qc_load(x + i);
        low = qc_at_most(low, some);
        high = qc_at_least(high, some);
    }
    if (i < width) {
        const qc_lanes some = qc_load_some(x + i, width - i, 0.0f);
        low = qc_at_most(low, some);
        high = qc_at_least(high, some);
    }
    *smallest = -qc_largest(qc_minus(qc_splat(0.0f), low));
    *largest = qc_largest(high);
}

#endif
