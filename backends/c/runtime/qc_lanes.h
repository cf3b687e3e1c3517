/* Sixteen floats that are added, multiplied and compared side by side, on every level alike: one register of AVX-512,
 * two of AVX2, four of NEON, an array elsewhere. Float kernels are written once, over them, and compiled for each level;
 * they give the same bits everywhere, because every operation is one of IEEE 754 in a stated order.
 */
#ifndef QC_LANES_H
#define QC_LANES_H

#include "qc_base.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define QC_LANES 16

#if defined(__AVX512F__)

typedef struct {
    __m512 v;
} qc_lanes;

QC_INLINE qc_lanes qc_load(const float *x) { return (qc_lanes){_mm512_loadu_ps(x)}; }
QC_INLINE void qc_store(float *x, qc_lanes a) { _mm512_storeu_ps(x, a.v); }
QC_INLINE qc_lanes qc_splat(float x) { return (qc_lanes){_mm512_set1_ps(x)}; }
QC_INLINE qc_lanes qc_plus(qc_lanes a, qc_lanes b) { return (qc_lanes){_mm512_add_ps(a.v, b.v)}; }
QC_INLINE qc_lanes qc_minus(qc_lanes a, qc_lanes b) { return (qc_lanes){_mm512_sub_ps(a.v, b.v)}; }
QC_INLINE qc_lanes qc_times(qc_lanes a, qc_lanes b) { return (qc_lanes){_mm512_mul_ps(a.v, b.v)}; }
QC_INLINE qc_lanes qc_over(qc_lanes a, qc_lanes b) { return (qc_lanes){_mm512_div_ps(a.v, b.v)}; }
QC_INLINE qc_lanes qc_fma(qc_lanes a, qc_lanes b, qc_lanes c) { return (qc_lanes){_mm512_fmadd_ps(a.v, b.v, c.v)}; }
QC_INLINE qc_lanes qc_at_least(qc_lanes a, qc_lanes low) { return (qc_lanes){_mm512_max_ps(low.v, a.v)}; }
QC_INLINE qc_lanes qc_at_most(qc_lanes a, qc_lanes high) { return (qc_lanes){_mm512_min_ps(high.v, a.v)}; }
QC_INLINE void qc_store_some(float *x, size_t count, qc_lanes a) {
    _mm512_mask_storeu_ps(x, (__mmask16)((1u << count) - 1), a.v);
}

#elif defined(__AVX2__) && defined(__FMA__)

typedef struct {
    __m256 v[2];
} qc_lanes;

QC_INLINE qc_lanes qc_load(const float *x) { return (qc_lanes){{_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}}; }
QC_INLINE void qc_store(float *x, qc_lanes a) {
    _mm256_storeu_ps(x, a.v[0]);
    _mm256_storeu_ps(x + 8, a.v[1]);
}
QC_INLINE qc_lanes qc_splat(float x) { return (qc_lanes){{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
#define QC_PAIR(name, one)                                                                                             \
    QC_INLINE qc_lanes name(qc_lanes a, qc_lanes b) { return (qc_lanes){{one(a.v[0], b.v[0]), one(a.v[1], b.v[1])}}; }
#define QC_MAX_REVERSED(a, low) _mm256_max_ps(low, a)
#define QC_MIN_REVERSED(a, high) _mm256_min_ps(high, a)
QC_PAIR(qc_plus, _mm256_add_ps)
QC_PAIR(qc_minus, _mm256_sub_ps)
QC_PAIR(qc_times, _mm256_mul_ps)
QC_PAIR(qc_over, _mm256_div_ps)
QC_PAIR(qc_at_least, QC_MAX_REVERSED)
QC_PAIR(qc_at_most, QC_MIN_REVERSED)
QC_INLINE qc_lanes qc_fma(qc_lanes a, qc_lanes b, qc_lanes c) {
    return (qc_lanes){{_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])}};
}

#elif defined(__aarch64__)

typedef struct {
    float32x4_t v[4];
} qc_lanes;

QC_INLINE qc_lanes qc_load(const float *x) {
    return (qc_lanes){{vld1q_f32(x), vld1q_f32(x + 4), vld1q_f32(x + 8), vld1q_f32(x + 12)}};
}
QC_INLINE void qc_store(float *x, qc_lanes a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(x + 4 * i, a.v[i]);
}
QC_INLINE qc_lanes qc_splat(float x) {
    const float32x4_t four = vdupq_n_f32(x);
    return (qc_lanes){{four, four, four, four}};
}
#define QC_FOUR(name, one)                                                                                             \
    QC_INLINE qc_lanes name(qc_lanes a, qc_lanes b) {                                                                  \
        return (qc_lanes){                                                                                             \
            {one(a.v[0], b.v[0]), one(a.v[1], b.v[1]), one(a.v[2], b.v[2]), one(a.v[3], b.v[3])}};                     \
    }
/* Not fmax and fmin, which differ from a comparison in zeros and NaN. */
#define QC_NOT_BELOW(a, low) vbslq_f32(vcltq_f32(a, low), low, a)
#define QC_NOT_ABOVE(a, high) vbslq_f32(vcgtq_f32(a, high), high, a)
QC_FOUR(qc_plus, vaddq_f32)
QC_FOUR(qc_minus, vsubq_f32)
QC_FOUR(qc_times, vmulq_f32)
QC_FOUR(qc_over, vdivq_f32)
QC_FOUR(qc_at_least, QC_NOT_BELOW)
QC_FOUR(qc_at_most, QC_NOT_ABOVE)
QC_INLINE qc_lanes qc_fma(qc_lanes a, qc_lanes b, qc_lanes c) {
    return (qc_lanes){{vfmaq_f32(c.v[0], a.v[0], b.v[0]), vfmaq_f32(c.v[1], a.v[1], b.v[1]),
                       vfmaq_f32(c.v[2], a.v[2], b.v[2]), vfmaq_f32(c.v[3], a.v[3], b.v[3])}};
}

#else

typedef struct {
    float v[QC_LANES];
} qc_lanes;

QC_INLINE qc_lanes qc_load(const float *x) {
    qc_lanes a;
    memcpy(a.v, x, sizeof a.v);
    return a;
}
QC_INLINE void qc_store(float *x, qc_lanes a) { memcpy(x, a.v, sizeof a.v); }
#define QC_EACH(head, one)                                                                                             \
    QC_INLINE qc_lanes head {                                                                                          \
        qc_lanes y;                                                                                                    \
        QC_ROLLED for (int i = 0; i < QC_LANES; ++i) y.v[i] = one;                                                     \
        return y;                                                                                                      \
    }
QC_EACH(qc_splat(float x), x)
QC_EACH(qc_plus(qc_lanes a, qc_lanes b), a.v[i] + b.v[i])
QC_EACH(qc_minus(qc_lanes a, qc_lanes b), a.v[i] - b.v[i])
QC_EACH(qc_times(qc_lanes a, qc_lanes b), a.v[i] * b.v[i])
QC_EACH(qc_over(qc_lanes a, qc_lanes b), a.v[i] / b.v[i])
QC_EACH(qc_at_least(qc_lanes a, qc_lanes low), a.v[i] < low.v[i] ? low.v[i] : a.v[i])
QC_EACH(qc_at_most(qc_lanes a, qc_lanes high), a.v[i] > high.v[i] ? high.v[i] : a.v[i])
QC_EACH(qc_fma(qc_lanes a, qc_lanes b, qc_lanes c), fmaf(a.v[i], b.v[i], c.v[i]))

#endif

/* The first `count` < 16 floats, `fill` in the other lanes. */
#if defined(__AVX512F__)
QC_INLINE qc_lanes qc_load_some(const float *x, size_t count, float fill) {
    return (qc_lanes){_mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << count) - 1), x)};
}
#else
static __attribute__((noinline, unused)) void qc_copy_some(float *to, const float *from, size_t count) {
    for (size_t i = 0; i < count; ++i) to[i] = from[i];
}
QC_INLINE qc_lanes qc_load_some(const float *x, size_t count, float fill) {
    float all[QC_LANES];
    qc_store(all, qc_splat(fill));
    qc_copy_some(all, x, count);
    return qc_load(all);
}
QC_INLINE void qc_store_some(float *x, size_t count, qc_lanes a) {
    float all[QC_LANES];
    qc_store(all, a);
    qc_copy_some(x, all, count);
}
#endif

/* The first `count` < 16 lanes, `fill` in the others. */
QC_INLINE qc_lanes qc_some(qc_lanes a, size_t count, float fill) {
#if defined(__AVX512F__)
    return (qc_lanes){_mm512_mask_mov_ps(_mm512_set1_ps(fill), (__mmask16)((1u << count) - 1), a.v)};
#else
    float all[QC_LANES];
    qc_store(all, a);
    return qc_load_some(all, count, fill);
#endif
}

/* Lane i gets what lane i ^ distance holds. */
#if defined(__AVX512F__)
QC_INLINE qc_lanes qc_swapped(qc_lanes a, int distance) {
    if (distance == 1) return (qc_lanes){_mm512_permute_ps(a.v, 0xb1)};
    if (distance == 2) return (qc_lanes){_mm512_permute_ps(a.v, 0x4e)};
    if (distance == 4) return (qc_lanes){_mm512_shuffle_f32x4(a.v, a.v, 0xb1)};
    return (qc_lanes){_mm512_shuffle_f32x4(a.v, a.v, 0x4e)};
}
#elif defined(__AVX2__) && defined(__FMA__)
QC_INLINE qc_lanes qc_swapped(qc_lanes a, int distance) {
    if (distance == 1) return (qc_lanes){{_mm256_permute_ps(a.v[0], 0xb1), _mm256_permute_ps(a.v[1], 0xb1)}};
    if (distance == 2) return (qc_lanes){{_mm256_permute_ps(a.v[0], 0x4e), _mm256_permute_ps(a.v[1], 0x4e)}};
    if (distance == 4)
        return (qc_lanes){{_mm256_permute2f128_ps(a.v[0], a.v[0], 1), _mm256_permute2f128_ps(a.v[1], a.v[1], 1)}};
    return (qc_lanes){{a.v[1], a.v[0]}};
}
#elif defined(__aarch64__)
QC_INLINE qc_lanes qc_swapped(qc_lanes a, int distance) {
    qc_lanes y;
    for (int q = 0; q < 4; ++q)
        y.v[q] = distance == 1   ? vrev64q_f32(a.v[q])
                 : distance == 2 ? vextq_f32(a.v[q], a.v[q], 2)
                                 : a.v[q ^ (distance / 4)];
    return y;
}
#else
QC_INLINE qc_lanes qc_swapped(qc_lanes a, int distance) {
    qc_lanes y;
    for (int i = 0; i < QC_LANES; ++i) y.v[i] = a.v[i ^ distance];
    return y;
}
#endif

QC_INLINE float qc_first(qc_lanes a) {
#if defined(__AVX512F__)
    return _mm512_cvtss_f32(a.v);
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_cvtss_f32(a.v[0]);
#elif defined(__aarch64__)
    return vgetq_lane_f32(a.v[0], 0);
#else
    return a.v[0];
#endif
}

/* Lane i and lane i + 8, then i + 4, i + 2, i + 1: the order in which every sum of lanes is finished. */
QC_INLINE float qc_total(qc_lanes a) {
    a = qc_plus(a, qc_swapped(a, 8));
    a = qc_plus(a, qc_swapped(a, 4));
    a = qc_plus(a, qc_swapped(a, 2));
    return qc_first(qc_plus(a, qc_swapped(a, 1)));
}

QC_INLINE float qc_largest(qc_lanes a) {
    a = qc_at_least(a, qc_swapped(a, 8));
    a = qc_at_least(a, qc_swapped(a, 4));
    a = qc_at_least(a, qc_swapped(a, 2));
    return qc_first(qc_at_least(a, qc_swapped(a, 1)));
}

/* Sums of a row are made in 16 lanes, of elements i = lane mod 16. */
QC_INLINE float qc_row_sum(const float *x, size_t width) {
    qc_lanes sum = qc_splat(0.0f);
    size_t i = 0;
    for (; i + QC_LANES <= width; i += QC_LANES) sum = qc_plus(sum, qc_load(x + i));
    if (i < width) sum = qc_plus(sum, qc_load_some(x + i, width - i, 0.0f));
    return qc_total(sum);
}

/* A row times a number, in place. */
QC_INLINE void qc_row_times(float *x, size_t width, float factor) {
    size_t i = 0;
    for (; i + QC_LANES <= width; i += QC_LANES) qc_store(x + i, qc_times(qc_load(x + i), qc_splat(factor)));
    if (i < width) qc_store_some(x + i, width - i, qc_times(qc_load_some(x + i, width - i, 0.0f), qc_splat(factor)));
}

#endif
