/* Elementary functions of one float, without branches, tables and libm, so that loops over them become vector code and
 * give the same bits on every processor. Each is range reduction and a polynomial by fused multiply-adds.
 *
 * Bounds against exact results, in units in the last place (ULP) over all floats, denormal results included:
 *   exp 2, expm1 2, log 2, log1p 3, tanh 3, sigmoid 3, erf 2, sin and cos 2 (|x| <= 1e6), rsqrt 2, pow 1
 *   gelu, silu, softplus, mish: 6 * 2^-24 * max(|x|, 1), absolute
 * Special values are those of the real functions: exp(-inf) = 0, exp(inf) = inf, log(0) = -inf, log(-1) = NaN,
 * NaN stays NaN.
 *
 * Source: Cody and Waite 1980, "Software Manual for the Elementary Functions"; polynomials of exp and log as in Moshier's
 * Cephes, of erf as in N. Juffa's.
 */
#ifndef QC_MATH_H
#define QC_MATH_H

#include "qc_base.h"

QC_INLINE uint32_t qc_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

QC_INLINE float qc_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

QC_INLINE float qc_abs(float x) { return qc_from_bits(qc_bits(x) & 0x7fffffffu); }
QC_INLINE float qc_with_sign(float magnitude, float sign) {
    return qc_from_bits((qc_bits(magnitude) & 0x7fffffffu) | (qc_bits(sign) & 0x80000000u));
}
/* NaN stays NaN. */
QC_INLINE float qc_clamp(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* x / step, to the same float, for |x / step| < 2^20; what is larger, or no number, becomes 2^20 with the sign of x.
 * `inverse` is 1 / step, rounded; step is between 2^-60 and 2^60. A quotient that is improved once is wrong by less than
 * one unit, and once more by none, where it is worth more than 2^-60: five instructions of half a cycle for the sixteen
 * cycles of a division by AVX-512. Processors without fused multiply-add divide.
 *
 * Source: Markstein 1990, "Computation of elementary functions on the IBM RISC System/6000 processor". */
QC_INLINE float qc_in_steps(float x, float step, float inverse) {
    const uint32_t size = qc_bits(x) & 0x7fffffffu, most = qc_bits(step * 1048576.0f);
    x = qc_with_sign(qc_from_bits(size < most ? size : most), x);
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    float q = x * inverse;
    q = fmaf(fmaf(-q, step, x), inverse, q);
    return fmaf(fmaf(-q, step, x), inverse, q);
#else
    (void)inverse;
    return x / step;
#endif
}

/* qc_place of x / step. Limits of whole numbers are single instructions, those of floats are not where NaN may be. */
QC_INLINE int32_t qc_code(float x, float step, float inverse, int32_t zero_point, int32_t low, int32_t high) {
    int32_t code = (int32_t)qc_round(qc_in_steps(x, step, inverse)) + zero_point;
    code = code < low ? low : code;
    return code > high ? high : code;
}

/* 2^n for a whole number -126 <= n <= 127 that was rounded by adding 1.5 * 2^23. */
#define QC_MAGIC 12582912.0f
QC_INLINE float qc_power_of_two(float shifted) { return qc_from_bits((qc_bits(shifted) + 127u) << 23); }

/* exp(r) - 1 for |r| <= ln(2) / 2: r + r^2 (QC_EXP_1 + QC_EXP_2 r + ...). */
#define QC_EXP_1 5.0000001201e-1f
#define QC_EXP_2 1.6666665459e-1f
#define QC_EXP_3 4.1665795894e-2f
#define QC_EXP_4 8.3334519073e-3f
#define QC_EXP_5 1.3981999507e-3f
#define QC_EXP_6 1.9875691500e-4f
QC_INLINE float qc_expm1_near(float r) {
    float p = fmaf(QC_EXP_6, r, QC_EXP_5);
    p = fmaf(p, r, QC_EXP_4);
    p = fmaf(p, r, QC_EXP_3);
    p = fmaf(p, r, QC_EXP_2);
    p = fmaf(p, r, QC_EXP_1);
    return fmaf(p * r, r, r);
}

#define QC_LOG2_E 1.44269504f
#define QC_LN2_HIGH 0.693145752f
#define QC_LN2_LOW 1.42860677e-6f

QC_INLINE float qc_exp(float x) {
    x = qc_clamp(x, -105.0f, 89.0f);
    const float n = fmaf(x, QC_LOG2_E, QC_MAGIC) - QC_MAGIC;
    float r = fmaf(n, -QC_LN2_HIGH, x);
    r = fmaf(n, -QC_LN2_LOW, r);
    /* In two factors, as 2^n alone may be too large or too small for a float although the result is none of both. */
    const float half = fmaf(n, 0.5f, QC_MAGIC);
    const float rest = n - (half - QC_MAGIC);
    /* What becomes zero is zero before: a product that underflows takes a hundred times as long as others. */
    const float base = x < -104.0f ? 0.0f : 1.0f + qc_expm1_near(r);
    return base * qc_power_of_two(half) * qc_power_of_two(rest + QC_MAGIC);
}

QC_INLINE float qc_expm1(float x) {
    x = qc_clamp(x, -20.0f, 89.0f);
    const float shifted = fmaf(x, QC_LOG2_E, QC_MAGIC), n = shifted - QC_MAGIC;
    float r = fmaf(n, -QC_LN2_HIGH, x);
    r = fmaf(n, -QC_LN2_LOW, r);
    const float half = qc_power_of_two(shifted - 1.0f);
    const float found = fmaf(half, qc_expm1_near(r), half - 0.5f);
    return n == 0.0f ? qc_expm1_near(r) : found + found;
}

QC_INLINE float qc_log(float x) {
    const float lifted = x < 1.17549435e-38f ? x * 8388608.0f : x;
    /* Mantissas from sqrt(1/2) to sqrt(2): the difference to the bits of sqrt(1/2) holds the exponent. */
    const uint32_t offset = qc_bits(lifted) - 0x3f3504f3u;
    const float e = (float)((int32_t)offset >> 23) - (x < 1.17549435e-38f ? 23.0f : 0.0f);
    const float f = qc_from_bits((offset & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    const float square = f * f;
    float p = 7.0376836292e-2f;
    p = fmaf(p, f, -1.1514610310e-1f);
    p = fmaf(p, f, 1.1676998740e-1f);
    p = fmaf(p, f, -1.2420140846e-1f);
    p = fmaf(p, f, 1.4249322787e-1f);
    p = fmaf(p, f, -1.6668057665e-1f);
    p = fmaf(p, f, 2.0000714765e-1f);
    p = fmaf(p, f, -2.4999993993e-1f);
    p = fmaf(p, f, 3.3333331174e-1f);
    float y = fmaf(e, QC_LN2_LOW, p * f * square);
    y = fmaf(-0.5f, square, y);
    y = fmaf(e, QC_LN2_HIGH, f + y);
    y = x > 3.40282347e38f ? x : y;
    y = x == 0.0f ? -INFINITY : y;
    return x < 0.0f || x != x ? NAN : y;
}

QC_INLINE float qc_log1p(float x) {
    const float u = 1.0f + x;
    /* What rounding the sum lost, to first order. */
    const float y = qc_log(u) + (x - (u - 1.0f)) / u;
    return u > 3.0e38f || u == 0.0f ? qc_log(u) : y;
}

QC_INLINE float qc_tanh(float x) {
    const float e = qc_expm1(2.0f * qc_clamp(qc_abs(x), 0.0f, 10.0f));
    return qc_with_sign(e / (e + 2.0f), x);
}

QC_INLINE float qc_sigmoid(float x) {
    const float e = qc_exp(-qc_abs(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

QC_INLINE float qc_erf(float x) {
    const float t = qc_clamp(qc_abs(x), 0.0f, 4.0f), s = t * t;
    float far = fmaf(-1.72853470e-5f, t, 3.83197126e-4f);
    far = fmaf(far, s, fmaf(-3.88396438e-3f, t, 2.42546219e-2f));
    far = fmaf(far, t, -1.06777877e-1f);
    far = fmaf(far, t, -6.34846687e-1f);
    far = fmaf(far, t, -1.28717512e-1f);
    far = 1.0f - qc_exp(fmaf(far, t, -t));
    float near = -5.96761703e-4f;
    near = fmaf(near, s, 4.99119423e-3f);
    near = fmaf(near, s, -2.67681349e-2f);
    near = fmaf(near, s, 1.12819925e-1f);
    near = fmaf(near, s, -3.76125336e-1f);
    near = fmaf(near, s, 1.28379166e-1f);
    near = fmaf(near, t, t);
    return qc_with_sign(t > 0.927734375f ? far : near, x);
}

QC_INLINE float qc_gelu(float x) { return 0.5f * x * (1.0f + qc_erf(x * 0.707106781f)); }
QC_INLINE float qc_gelu_tanh(float x) {
    return 0.5f * x * (1.0f + qc_tanh(0.797884561f * fmaf(0.044715f * x * x, x, x)));
}
QC_INLINE float qc_silu(float x) { return x * qc_sigmoid(x); }
QC_INLINE float qc_relu(float x) { return x < 0.0f ? 0.0f : x; }
QC_INLINE float qc_hard_sigmoid(float x) { return qc_clamp(x + 3.0f, 0.0f, 6.0f) / 6.0f; }
QC_INLINE float qc_hard_swish(float x) { return x * qc_clamp(x + 3.0f, 0.0f, 6.0f) / 6.0f; }
QC_INLINE float qc_softplus(float x) { return (x > 0.0f ? x : 0.0f) + qc_log1p(qc_exp(-qc_abs(x))); }
QC_INLINE float qc_mish(float x) {
    /* tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2) */
    const float e = qc_exp(qc_clamp(x, -105.0f, 20.0f)), n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}
QC_INLINE float qc_rsqrt(float x) { return 1.0f / sqrtf(x); }

/* Quarter turns are counted and taken off in double, which is exact enough for positions of a long context. */
#define QC_MAGIC_DOUBLE 6755399441055744.0
QC_INLINE float qc_wave(float x, uint32_t shift) {
    const double wide = qc_abs(x) < 1.0e9f ? (double)x : 0.0;
    double n = wide * 0.63661977236758134 + QC_MAGIC_DOUBLE;
    uint64_t bits;
    memcpy(&bits, &n, sizeof bits);
    const uint32_t quarter = (uint32_t)bits + shift;
    n -= QC_MAGIC_DOUBLE;
    const float r = (float)(wide - n * 1.5707963267341256 - n * 6.0771005065061922e-11), s = r * r;
    float sine = fmaf(s, 2.86567956e-6f, -1.98559923e-4f);
    sine = fmaf(sine, s, 8.33338592e-3f);
    sine = fmaf(sine, s, -1.66666672e-1f);
    sine = fmaf(sine * s, r, r);
    float cosine = fmaf(s, 2.44677067e-5f, -1.38877297e-3f);
    cosine = fmaf(cosine, s, 4.16666567e-2f);
    cosine = fmaf(cosine, s, -0.5f);
    cosine = fmaf(cosine, s, 1.0f);
    const float y = qc_from_bits(qc_bits(quarter & 1u ? cosine : sine) ^ (quarter & 2u) << 30);
    return qc_abs(x) < 1.0e9f ? y : NAN;
}
/* NaN from 1e9 on, where neighbouring floats are many turns apart. */
QC_INLINE float qc_sin(float x) { return qc_wave(x, 0); }
QC_INLINE float qc_cos(float x) { return qc_wave(x, 1); }

/* x^y by logarithm and exponential in double. Negative x: whole y only, NaN else. */
QC_INLINE float qc_pow(float x, float y) {
    const double magnitude = (double)qc_abs(x);
    uint64_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    const uint64_t offset = bits - 0x3fe6a09e667f3bcdu;
    const double e = (double)((int32_t)(offset >> 32) >> 20);
    const uint64_t mantissa = (offset & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
    double m;
    memcpy(&m, &mantissa, sizeof m);
    const double f = (m - 1.0) / (m + 1.0), s = f * f;
    double p = 1.0 / 17.0;
    p = p * s + 1.0 / 15.0;
    p = p * s + 1.0 / 13.0;
    p = p * s + 1.0 / 11.0;
    p = p * s + 1.0 / 9.0;
    p = p * s + 1.0 / 7.0;
    p = p * s + 1.0 / 5.0;
    p = p * s + 1.0 / 3.0;
    const double logarithm = e + 2.8853900817779268 * (f + f * s * p);
    double t = (double)qc_clamp(y, -1.0e30f, 1.0e30f) * logarithm;
    t = t < -160.0 ? -160.0 : t;
    t = t > 130.0 ? 130.0 : t;
    const double shifted = t + QC_MAGIC_DOUBLE, r = (t - (shifted - QC_MAGIC_DOUBLE)) * 0.69314718055994531;
    double q = 1.0 / 39916800.0;
    q = q * r + 1.0 / 3628800.0;
    q = q * r + 1.0 / 362880.0;
    q = q * r + 1.0 / 40320.0;
    q = q * r + 1.0 / 5040.0;
    q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0;
    q = q * r + 1.0 / 24.0;
    q = q * r + 1.0 / 6.0;
    q = q * r + 0.5;
    q = q * r + 1.0;
    q = q * r + 1.0;
    uint64_t scale;
    memcpy(&scale, &shifted, sizeof scale);
    scale = (scale + 1023u) << 52;
    double power;
    memcpy(&power, &scale, sizeof power);
    float found = (float)(q * power);
    const float grown = y < 0.0f ? 0.0f : INFINITY, shrunk = y < 0.0f ? INFINITY : 0.0f;
    found = qc_abs(x) > 3.40282347e38f ? grown : found;
    found = x == 0.0f ? shrunk : found;
    const float halved = y * 0.5f, reach = qc_abs(y);
    const float whole = reach < 8388608.0f ? (reach + 8388608.0f) - 8388608.0f : reach;
    const float half = qc_abs(halved) < 8388608.0f ? (qc_abs(halved) + 8388608.0f) - 8388608.0f : qc_abs(halved);
    const float odd = whole == reach && half != qc_abs(halved) ? -found : found;
    found = qc_bits(x) >> 31 ? odd : found;
    found = x < 0.0f && x >= -3.40282347e38f && whole != reach ? NAN : found;
    found = x != x || y != y ? NAN : found;
    return y == 0.0f || x == 1.0f ? 1.0f : found;
}

#endif
