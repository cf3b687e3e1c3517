/* What the loops of generated layers use besides arithmetic. */
#ifndef QC_LOOPS_H
#define QC_LOOPS_H

#include "qc_fixed.h"
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

#endif
