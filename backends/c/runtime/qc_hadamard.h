/* Fast product of rows with a Hadamard matrix, on consecutive blocks: y = (x * signs * scale) H, H = C x S, where C of
 * `core` rows holds plus and minus one and S is Sylvester's, of size block / core, a power of two.
 *
 * Every element is multiplied by its sign, then by `scale` (1 / sqrt(block) for an orthogonal product). Butterflies
 * (a + b, a - b) follow for distances 1, 2, 4, ... within runs of block / core elements; then the sum over i of
 * C[i][j] * run i, one after the other from 0. `out` may be `input`.
 *
 * Tasks are rows. 11 KiB of stack where core > 1.
 *
 * Source: Fino and Algazi 1976, "Unified Matrix Treatment of the Fast Walsh-Hadamard Transform"; the matrices are those
 * of qcompiler.hadamard.
 */
#ifndef QC_HADAMARD_H
#define QC_HADAMARD_H

#include "qc_lanes.h"

#define QC_HADAMARD_CORE 172 /* the largest */

typedef struct {
    const float *input;
    size_t input_stride; /* elements from row to row */
    size_t width, block; /* block divides width */
    size_t core;         /* 1 for powers of two */
    const int8_t *matrix; /* C, [core][core], NULL for core 1 */
    const float *signs;   /* [width] or NULL */
    float scale;
    float *out;
    size_t out_stride;
} qc_hadamard_args;

void qc_hadamard_portable(const qc_hadamard_args *args, size_t begin, size_t end);

#endif
