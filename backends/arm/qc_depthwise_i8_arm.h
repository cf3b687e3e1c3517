/* What the ARM versions of qc_depthwise_i8 share: panels of sixteen channels, four positions at a time. A version
 * defines GROUP, the taps that it takes together, and
 *   add_taps(sum, bases, c, at, weight, positions, taps)
 * which adds to the sums of `positions` positions the products of 1 ... GROUP taps at the offsets `at`, and
 *   load_column(pixel, at), add_column(sum, column, weight)
 * which load and interleave four taps, and add their products for one position; then it includes
 * qc_depthwise_i8_tile.h. */
#ifndef QC_DEPTHWISE_I8_ARM_H
#define QC_DEPTHWISE_I8_ARM_H

#include "qc_depthwise_i8.h"
#include "qc_finish_neon.h"
#include "qc_order_neon.h"

#define QC_PANEL 16    /* channels */
#define QC_POSITIONS 4 /* that share weights in registers */
#define QC_BLOCK 8     /* positions that are finished together */
typedef struct {
    int32x4_t v[4];
} qc_sums;
typedef struct {
    int8x16_t v[4];
} qc_four;

#define QC_EACH_POSITION(DO) DO(0) DO(1) DO(2) DO(3)

#endif
