/* Functions of loops that models need rarely; like those of qc_math.h without branches, tables and libm but fmod, which
 * is exact everywhere. Bounds in units in the last place: tan 4, asin, acos, atan, atan2 4, sinh, cosh, asinh, acosh,
 * atanh 6, log2 and log10 4 (absolute 2^-22 near 1).
 *
 * Source: polynomial of the arc tangent as in Moshier's Cephes.
 */
#ifndef QC_FUNCTIONS_H
#define QC_FUNCTIONS_H

#include "qc_math.h"

QC_INLINE float qc_sign(float x) { return (float)(x > 0.0f) - (float)(x < 0.0f); }
QC_INLINE float qc_log2(float x) { return qc_log(x) * 1.44269504f; }
QC_INLINE float qc_log10(float x) { return qc_log(x) * 0.434294482f; }
QC_INLINE float qc_tan(float x) { return qc_sin(x) / qc_cos(x); }

QC_INLINE float qc_sinh(float x) {
    const float e = qc_expm1(qc_abs(x));
    return qc_with_sign(e < 1.0e30f ? 0.5f * (e + e / (e + 1.0f)) : 0.5f * e, x);
}
QC_INLINE float qc_cosh(float x) {
    const float e = qc_exp(qc_abs(x));
    return 0.5f * (e + 1.0f / e);
}
QC_INLINE float qc_asinh(float x) {
    const float a = qc_abs(x), near = qc_log1p(a + a * a / (1.0f + sqrtf(fmaf(a, a, 1.0f))));
    return qc_with_sign(a > 1.0e9f ? qc_log(a) + 0.693147181f : near, x);
}
QC_INLINE float qc_acosh(float x) {
    const float t = x - 1.0f, near = qc_log1p(t + sqrtf(t * (t + 2.0f)));
    return x > 1.0e9f ? qc_log(x) + 0.693147181f : near;
}
QC_INLINE float qc_atanh(float x) {
    const float a = qc_abs(x);
    return qc_with_sign(0.5f * qc_log1p((a + a) / (1.0f - a)), x);
}

QC_INLINE float qc_atan(float x) {
    const float a = qc_abs(x);
    const float far = -1.0f / a, middle = (a - 1.0f) / (a + 1.0f);
    const float r = a > 2.41421356f ? far : a > 0.414213562f ? middle : a, s = r * r;
    float p = fmaf(8.05374449538e-2f, s, -1.38776856032e-1f);
    p = fmaf(p, s, 1.99777106478e-1f);
    p = fmaf(p, s, -3.33329491539e-1f);
    p = fmaf(p * s, r, r);
    return qc_with_sign(a > 2.41421356f ? 1.57079633f + p : a > 0.414213562f ? 0.785398163f + p : p, x);
}
QC_INLINE float qc_atan2(float y, float x) {
    const float ay = qc_abs(y), ax = qc_abs(x);
    const float small = ay < ax ? ay : ax, large = ay < ax ? ax : ay;
    /* Equal magnitudes, infinite ones and zeros among them, are an eighth of a turn, or none. */
    float angle = large == 0.0f ? 0.0f : qc_atan(small == large ? 1.0f : small / large);
    angle = ay > ax ? 1.57079633f - angle : angle;
    angle = qc_bits(x) >> 31 ? 3.14159265f - angle : angle;
    return x != x || y != y ? NAN : qc_with_sign(angle, y);
}
QC_INLINE float qc_asin(float x) { return qc_abs(x) > 1.0f ? NAN : qc_atan2(x, sqrtf((1.0f - x) * (1.0f + x))); }
QC_INLINE float qc_acos(float x) { return qc_abs(x) > 1.0f ? NAN : qc_atan2(sqrtf((1.0f - x) * (1.0f + x)), x); }

/* Divisions rounded down, and what they leave: of the sign of b. By zero: 0 for whole numbers, as in IEEE 754 for reals. */
QC_INLINE int64_t qc_floor_whole(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return b ? (int64_t)(0 - (uint64_t)a) : 0;
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
QC_INLINE int64_t qc_remainder_whole(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return 0;
    const int64_t rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
QC_INLINE int64_t qc_trunc_whole(int64_t a, int64_t b) {
    return b == 0 || b == -1 ? (b ? (int64_t)(0 - (uint64_t)a) : 0) : a / b;
}
QC_INLINE int64_t qc_fmod_whole(int64_t a, int64_t b) { return b == 0 || b == -1 ? 0 : a % b; }
QC_INLINE float qc_remainder(float a, float b) {
    const float rest = fmodf(a, b);
    return rest != 0.0f && (rest < 0.0f) != (b < 0.0f) ? rest + b : rest;
}
QC_INLINE float qc_floor_divide(float a, float b) {
    if (b == 0.0f) return a / b;
    const float rest = fmodf(a, b), whole = (a - rest) / b;
    const float steps = rest != 0.0f && (b < 0.0f) != (rest < 0.0f) ? whole - 1.0f : whole, low = floorf(steps);
    return steps == 0.0f ? qc_with_sign(0.0f, a / b) : steps - low > 0.5f ? low + 1.0f : low;
}

/* A position of a grid, -1 to 1, in pixels: what lies outside of the image stays there (padding 0), goes to its edge (1) or
 * is mirrored into it (2). `corners`: the ends are the middles of the outermost pixels, else their outer edges. */
QC_INLINE float qc_grid_place(float x, int64_t size, int padding, int corners) {
    const float last = (float)(size - 1), low = corners ? 0.0f : -0.5f, span = corners ? last : (float)size;
    float at = corners ? (x + 1.0f) * 0.5f * last : ((x + 1.0f) * (float)size - 1.0f) * 0.5f;
    if (padding == 2 && span == 0.0f) at = 0.0f;
    if (padding == 2 && span != 0.0f) {
        const float far = qc_abs(at - low), rest = fmodf(far, span);
        at = fmodf(floorf(far / span), 2.0f) == 0.0f ? rest + low : span - rest + low;
    }
    at = padding ? qc_clamp(at, 0.0f, last) : at;
    return qc_abs(at) < 1.0e9f ? at : -100.0f;
}

/* x * 2^bits, and the sign's copy shifted in; shifts by more than the width give what is left of the number. */
QC_INLINE int64_t qc_shift_left(int64_t x, int64_t bits) {
    return bits < 0 || bits > 63 ? 0 : (int64_t)((uint64_t)x << bits);
}
QC_INLINE int64_t qc_shift_right(int64_t x, int64_t bits) { return x >> (bits < 0 || bits > 63 ? 63 : bits); }

#endif
