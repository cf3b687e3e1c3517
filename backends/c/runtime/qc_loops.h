/* What the loops of generated layers use besides arithmetic. */
#ifndef QC_LOOPS_H
#define QC_LOOPS_H

#include "qc_functions.h"
#include "qc_lanes.h"
#include "qc_math.h"
#include "qc_sort.h"

/* A position along an axis: negative ones count from its end, others outside are moved to the nearest inside, so that
 * no input makes a model read memory that is not its own. */
static inline size_t qc_index(int64_t position, int64_t size) {
    if (position < 0) position += size;
    if (position < 0) return 0;
    return (size_t)(position < size ? position : size - 1);
}

/* The table of pointers of a window: rows[m * taps + t], by the geometry of qc_gemm_i8.h. */
static inline void qc_point_f32(const float **rows, const float *input, size_t count, size_t width, size_t inner_stride,
    size_t outer_stride, const int32_t *offsets, size_t taps) {
    for (size_t m = 0; m < count; ++m)
        for (size_t t = 0; t < taps; ++t)
            rows[m * taps + t] = input + m / width * outer_stride + m % width * inner_stride + offsets[t];
}

#endif
