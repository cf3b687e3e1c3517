/* Codes of few bits to planes of bits, a pixel or a token at a time: what qc_gemm_bits reads.
 *
 *   bit j of plane j, row m, channel k = bit j of input[m][k] as stored
 *
 * The lowest bits of a stored code are those of the code itself, as a number or in two's complement, on all processors.
 * Rows are whole words of 8 bytes, zero behind the last channel. Row m of the input starts at
 * input + m / width * outer_stride + m % width * inner_stride.
 *
 * Tasks are rows m.
 */
#ifndef QC_PACK_PLANES_H
#define QC_PACK_PLANES_H

#include "qc_base.h"

typedef struct {
    const qc_act *input;
    size_t width, inner_stride, outer_stride; /* strides in elements */
    size_t channels, planes;
    uint8_t *out;
    size_t out_stride, plane_stride; /* bytes from row to row, whole words, and from plane to plane */
} qc_pack_planes_args;

void qc_pack_planes_portable(const qc_pack_planes_args *args, size_t begin, size_t end);

#endif
