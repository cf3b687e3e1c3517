/* Matrix product of few rows of 8-bit activations and weights of 1 to 4 bits by tables of sums: the numbers of
 * qc_gemm_wna8, without a multiplication in the inner loop.
 *
 *   code(n, k)     = step * sum over planes i of  2^i * bit i of weight n at input k
 *   sum(m, n, g)   = sum over k of block g of  input[m][k] * code(n, k)  -  zero[n][g] * input_sum[m][g]     in int32
 *   acc            = bias[n], or 0
 *   acc            = fmaf(float(sum(m, n, g)), input_scale[m][g] * scale[n][g], acc)     for g = 0, 1, ...
 *   out[m][n]      = acc
 *
 * Four bits of a plane, of four neighbouring inputs, are a place in a table of the 16 sums that they can choose from
 * these inputs. Sums of four bytes do not fit a byte, so there are two tables of a group: of the low halves of its
 * inputs (0 to 60) and of the high ones (-32 to 28). Signs are one plane with step 2 and zero point 1.
 *
 * Weights are [ceil(n / 32)] panels, in each [blocks][planes][groups][16 bytes]: the low half of byte b belongs to
 * output b, the high one to output 16 + b, bit d of a half to input 4 * group + d. Groups of a block are filled up to a
 * multiple of four with zeros, as are missing outputs. Scales and zero points are [ceil(n / 32)][blocks][32]; what
 * stands there for missing outputs is finite. Blocks have up to QC_GEMV_BLOCK inputs. Activations may be read up to
 * QC_SLACK bytes behind their end.
 *
 * Tasks are panels; the tables, 16 KiB on the stack, are made once for all panels of a call.
 */
#ifndef QC_GEMV_WNA8_H
#define QC_GEMV_WNA8_H

#include "qc_base.h"

#define QC_GEMV_BLOCK 2048 /* sums of tables stay below 2^15 */
#define QC_GEMV_PANEL 32   /* outputs */

typedef struct {
    const int8_t *input;
    size_t input_stride;      /* elements from row to row */
    const float *input_scale; /* [rows][blocks] */
    const int32_t *input_sum; /* [rows][blocks] */
    const uint8_t *weight;
    const float *scale;
    const uint8_t *zero; /* NULL: all are `common_zero` */
    int32_t common_zero;
    const float *bias; /* [columns] or NULL */
    size_t rows, columns, depth, block;
    size_t planes;
    int32_t step;
    float *out;
    size_t out_stride; /* elements from row to row */
} qc_gemv_wna8_args;

/* How a row is divided: blocks, and groups of four inputs of a block and of the last one. */
typedef struct {
    size_t blocks, full, last;
} qc_gemv_division;

QC_INLINE qc_gemv_division qc_gemv_divide(const qc_gemv_wna8_args *args) {
    qc_gemv_division d;
    d.blocks = (args->depth + args->block - 1) / args->block;
    d.full = (args->block + 15) / 16 * 4;
    d.last = (args->depth - (d.blocks - 1) * args->block + 15) / 16 * 4;
    return d;
}

/* Bytes of a panel. */
QC_INLINE size_t qc_gemv_panel_bytes(const qc_gemv_wna8_args *args, const qc_gemv_division *d) {
    return ((d->blocks - 1) * d->full + d->last) * args->planes * 16;
}

void qc_gemv_wna8_portable(const qc_gemv_wna8_args *args, size_t begin, size_t end);
void qc_gemv_wna8_avx2(const qc_gemv_wna8_args *args, size_t begin, size_t end);
void qc_gemv_wna8_neon(const qc_gemv_wna8_args *args, size_t begin, size_t end);

#endif
