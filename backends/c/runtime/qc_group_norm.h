/* Group norm of channels-last images; instance norm is that of as many groups as channels.
 *
 *   mean[g] = sum of x over positions and the channels of group g / count, count = positions * channels / groups
 *   variance[g] = sum of (x - mean[g])^2 / count, r[g] = 1 / sqrt(variance[g] + eps)
 *   out[p][c] = fma((x[p][c] - mean) * r, weight[c], bias[c])
 *
 * Sums: for each channel four chains, over positions p = chain mod 4, squares by fused multiply-adds; the four are added
 * as (0 + 2) + (1 + 3); then the channels of a group, one after the other from 0. `out` may be `input`.
 *
 * Tasks are images.
 */
#ifndef QC_GROUP_NORM_H
#define QC_GROUP_NORM_H

#include "qc_lanes.h"

typedef struct {
    const float *input; /* [images][positions][channels] */
    size_t positions, channels, groups;
    float eps;
    const float *weight, *bias; /* [channels]; NULL for ones, zeros */
    float *scratch;             /* [images][2][channels rounded up to 16] */
    float *out;
} qc_group_norm_args;

void qc_group_norm_portable(const qc_group_norm_args *args, size_t begin, size_t end);

#endif
