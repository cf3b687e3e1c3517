/* From reals to bytes of codes, in loops that compilers turn into vectors. */
#ifndef QC_STEPS_H
#define QC_STEPS_H

#include "qc_lanes.h"

/* Adding it leaves the nearest whole number, halves to even, in the last bits of a float. */
#define QC_TO_WHOLE 12582912.0f

/* clip(round(steps) + zero): limits hold before rounding as well as after it, being whole. NaN becomes the lower one. */
QC_INLINE int32_t qc_settled(float steps, float zero, float lowest, float highest) {
    const float low = lowest - zero, high = highest - zero;
    steps = steps > low ? steps : low;
    steps = steps < high ? steps : high;
    return (int32_t)(((steps + QC_TO_WHOLE) - QC_TO_WHOLE) + zero);
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
