/* The two kinds of half precision in which weights of few bits are decoded, two numbers in a register of 32 bits.
 *
 * An integer becomes a float without a conversion: its bits, put into the mantissa of a power of two, add to that
 * power. With `room` bits of mantissa, field | magic is 2^room + field, and a field that lies `s` bits higher counts
 * 2^s times; one fma by 2^-s and the negated power takes both back, exactly.
 */
#pragma once

#include "qc_device.h"
#include "qc_store.cuh"

/* The same number in both halves. */
QC_DEVICE constexpr uint32_t qc_wn_twice(uint32_t a) { return a << 16 | a; }
/* (a & mask) | rest in one instruction, which two constants would not be. */
QC_DEVICE uint32_t qc_wn_merge(uint32_t a, uint32_t mask, uint32_t rest) { return qc::logic<0xea>(a, mask, rest); }
/* One half of a pair in both halves. */
QC_DEVICE uint32_t qc_wn_spread(uint32_t pair, int upper) { return qc::choose_bytes(pair, 0, upper ? 0x3232 : 0x1010); }

struct qc_wn_half {
    typedef qc_half stored;
    static constexpr int room = 10, bias = 15;
    static QC_MEMBER uint32_t fma(uint32_t a, uint32_t b, uint32_t c) { return qc::half2_fma(a, b, c); }
    static QC_MEMBER uint32_t add(uint32_t a, uint32_t b) { return qc::half2_add(a, b); }
    static QC_MEMBER uint32_t multiply(uint32_t a, uint32_t b) { return qc::half2_multiply(a, b); }
    static QC_MEMBER float real(uint32_t code) { return qc::from_half((uint16_t)code); }
    static QC_MEMBER void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { qc::mma_f16(c, a, b); }
};

struct qc_wn_bfloat {
    typedef qc_bfloat stored;
    static constexpr int room = 7, bias = 127;
    static QC_MEMBER uint32_t fma(uint32_t a, uint32_t b, uint32_t c) { return qc::bfloat2_fma(a, b, c); }
    static QC_MEMBER uint32_t add(uint32_t a, uint32_t b) { return fma(a, 0x3f803f80u, b); }
    static QC_MEMBER uint32_t multiply(uint32_t a, uint32_t b) { return fma(a, b, 0x80008000u); }
    static QC_MEMBER uint32_t subtract(uint32_t a, uint32_t b) { return fma(b, 0xbf80bf80u, a); }
    static QC_MEMBER float real(uint32_t code) { return qc::from_bfloat((uint16_t)code); }
    static QC_MEMBER void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { qc::mma_bf16(c, a, b); }
};

/* 2^power twice, and its negation. */
template <class Kind> QC_DEVICE constexpr uint32_t qc_wn_power(int power) {
    return (uint32_t)(Kind::bias + power) << Kind::room | (uint32_t)(Kind::bias + power) << (Kind::room + 16);
}
template <class Kind> QC_DEVICE constexpr uint32_t qc_wn_minus_power(int power) {
    return qc_wn_power<Kind>(power) | 0x80008000u;
}
