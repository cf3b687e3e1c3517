/* Requantization in integers, for processors without floats: backends.reference.fixed, equal bit for bit. */
#ifndef QC_FIXED_H
#define QC_FIXED_H

#include "qc_base.h"

/* Where codes of a result lie, as stored, and what whole numbers are multiplied with: mantissa / 2^shift. */
typedef struct {
    const int32_t *mantissa; /* one, or one for every column, up to 2^24 */
    const uint8_t *shift;    /* likewise, 1 to 62 */
    int32_t zero_point, low, high;
} qc_fixed;

/* round(x / 2^shift), halves to even, for 1 <= shift. */
QC_INLINE int64_t qc_shifted(int64_t x, int shift) {
    return (x + ((int64_t)1 << (shift - 1)) - 1 + ((x >> shift) & 1)) >> shift;
}

/* The same in 32 bits, for |x| < 2^30 and shift <= 30. */
QC_INLINE int32_t qc_shifted_short(int32_t x, int shift) {
    return (x + ((int32_t)1 << (shift - 1)) - 1 + ((x >> shift) & 1)) >> shift;
}

/* clip(steps + zero_point) */
QC_INLINE int32_t qc_fixed_place(int64_t steps, int32_t zero_point, int32_t low, int32_t high) {
    const int64_t code = steps + zero_point;
    return code < low ? low : code > high ? high : (int32_t)code;
}

/* clip(round(total * mantissa[i] / 2^shift[i]) + zero_point) */
QC_INLINE int32_t qc_fixed_code(const qc_fixed *fixed, int32_t total, size_t i) {
    const int64_t steps = qc_shifted((int64_t)total * fixed->mantissa[i], fixed->shift[i]);
    return qc_fixed_place(steps, fixed->zero_point, fixed->low, fixed->high);
}

#endif
