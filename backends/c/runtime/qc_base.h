/* What all kernels share: types, rounding, requantization.
 *
 * A kernel is `void qc_<name>_<isa>(const qc_<name>_args *args, size_t begin, size_t end)`: it does the tasks
 * [begin, end) of those its header describes, so that threads can share them. It keeps no state and allocates nothing.
 *
 * 8-bit activations lie in memory in the signedness that the processor multiplies best: unsigned on x86 (vpdpbusd),
 * signed on ARM (sdot). A code of the program of the other signedness is 128 less or more than what is stored; zero
 * points are shifted alike, so that integer sums do not change.
 *
 * Memory that a kernel reads may be read up to QC_SLACK bytes behind its end; what lies there never matters.
 */
#ifndef QC_BASE_H
#define QC_BASE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define QC_SLACK 256

#define QC_INLINE static inline __attribute__((always_inline, unused))

/* Loops of a constant count whose bodies must stay in registers, and loops that only make code long when unrolled. */
#if defined(__clang__)
#define QC_UNROLL _Pragma("clang loop unroll(full)")
#define QC_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define QC_UNROLL _Pragma("GCC unroll 32")
#define QC_ROLLED _Pragma("GCC unroll 1")
#endif

/* A model for any processor says so itself, wherever it is compiled. */
#ifndef QC_SIGNED_ACTIVATIONS
#if defined(__x86_64__) || defined(__i386__)
#define QC_SIGNED_ACTIVATIONS 0
#else
#define QC_SIGNED_ACTIVATIONS 1
#endif
#endif
#if QC_SIGNED_ACTIVATIONS
typedef int8_t qc_act;
#else
typedef uint8_t qc_act;
#endif

/* Nearest whole number, halves to even. Without an instruction for it: adding 1.5 * 2^23 makes the unit the last bit. */
static inline float qc_round(float x) {
#if defined(__SSE4_1__) || defined(__aarch64__)
    return rintf(x);
#else
    const float magic = 12582912.0f;
    return x < 4194304.0f && x > -4194304.0f ? (x + magic) - magic : rintf(x);
#endif
}

/* clip(round(steps) + zero_point): `low` and `high` are whole numbers with `zero_point` inside. */
static inline int32_t qc_place(float steps, float zero_point, float low, float high) {
    float code = qc_round(steps) + zero_point;
    code = code < low ? low : code;
    code = code > high ? high : code;
    return (int32_t)code;
}

#endif
