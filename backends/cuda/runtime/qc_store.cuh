/* Results in memory: float32, or half precision rounded to nearest, ties to even. */
#pragma once

#include "qc_device.h"

struct qc_half {
    static QC_MEMBER uint16_t pack(float value) { return qc::to_half(value); }
    typedef uint16_t type;
};
struct qc_bfloat {
    static QC_MEMBER uint16_t pack(float value) { return qc::to_bfloat(value); }
    typedef uint16_t type;
};
struct qc_float {
    static QC_MEMBER float pack(float value) { return value; }
    typedef float type;
};

/* Two neighbours at `index` of an array of kind Out, or the first alone where `left` is 1, none where it is less. */
template <class Out> QC_DEVICE void qc_store_pair(void *array, int64_t index, const float (&values)[2], int left) {
    typename Out::type *to = (typename Out::type *)array + index;
    if (left <= 0) return;
    if (left > 1 && index % 2 == 0) {
        struct alignas(2 * sizeof(typename Out::type)) Pair {
            typename Out::type first, second;
        };
        qc::store_global(to, Pair{Out::pack(values[0]), Out::pack(values[1])});
        return;
    }
    to[0] = Out::pack(values[0]);
    if (left > 1) to[1] = Out::pack(values[1]);
}

/* x / scale, rounded, is less than zero where x is less than this: quotients of 2^-150 and less round to zero. For scales
 * below 2^25 it is a subnormal number, whose bits count multiples of 2^-149. */
QC_DEVICE float qc_sign_limit(float scale) {
    if (scale < 33554432.0f) return -qc::from_bits((uint32_t)(scale * 0.5f));
    return -qc::multiply(qc::multiply(scale, 8.88178420e-16f), 7.88860905e-31f); /* 2^-50, 2^-100 */
}
