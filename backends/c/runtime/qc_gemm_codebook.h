/* Matrix product of floats and weights that are codes of vectors in learned tables.
 *
 *   p(m, n, j, b)  = x[0] * v[0], then fmaf(x[i], v[i], p) for i = 1, 2, ... below `length`
 *                    with x = inputs from j * length on of row m, zeros behind the last, v = entry code(n, j, b) of
 *                    table b
 *   sum(m, n, g)   = 0, then sum + p(m, n, j, b) for all j of block g, for each of them all b, in order
 *   acc            = bias[n], or 0
 *   acc            = fmaf(sum(m, n, g), scale[g][n], acc)     for g = 0, 1, ...
 *   out[m][n]      = acc
 *
 * A weight is the sum of what its codes in all tables stand for, times the scale of its output and block. Blocks have
 * `block` vectors; the last one may be shorter.
 *
 * Codes are [vectors of a row][tables][columns, rounded up to 64] of 4, 8 or 16 bits, the lower half of a byte first.
 * Tables are [tables][entries][length], and once more [tables][length][entries].
 *
 * One row, or a few, is multiplied with all entries of a table first, and what the codes stand for is looked up; sixteen
 * rows are multiplied side by side. Both take the sums in the order above. Entries are a multiple of 16.
 *
 * Tasks are groups of 64 columns. Takes 24 KiB of stack.
 */
#ifndef QC_GEMM_CODEBOOK_H
#define QC_GEMM_CODEBOOK_H

#include "qc_lanes.h"

#define QC_CODEBOOK_COLUMNS 64
#define QC_CODEBOOK_LENGTH 16 /* longest vectors */

typedef struct {
    const float *input;
    size_t input_stride; /* elements from row to row */
    const uint8_t *codes;
    size_t code_bits;
    const float *table, *turned;
    size_t tables, entries, length;
    const float *scale; /* [blocks][columns, rounded up to 64] */
    const float *bias;  /* [columns] or NULL */
    size_t rows, columns, depth, block;
    float *out;
    size_t out_stride; /* elements from row to row */
} qc_gemm_codebook_args;

void qc_gemm_codebook_portable(const qc_gemm_codebook_args *args, size_t begin, size_t end);

#endif
