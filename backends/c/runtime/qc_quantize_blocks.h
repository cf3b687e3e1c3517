/* Activations to int8, every `block` of them by its own largest magnitude: what qc_gemm_wna8 multiplies.
 *
 *   a = largest |x| of block g of row m; NaN does not count
 *   code = round(x * (127 / a)), half to even, from -127 to 127; NaN becomes -127
 *   scale[m][g] = a / 127, sum[m][g] = sum of the codes
 *
 * Where a is 0, or so small that 127 / a overflows, the codes are 0. The last block of a row may be shorter.
 *
 * Source: MatMulNBits of onnxruntime at accuracy level 4; the same numbers as backends.reference.weights.blocked.
 *
 * Tasks are rows m.
 */
#ifndef QC_QUANTIZE_BLOCKS_H
#define QC_QUANTIZE_BLOCKS_H

#include "qc_lanes.h"

typedef struct {
    const float *input;
    size_t input_stride; /* elements from row to row */
    size_t width, block;
    int8_t *out;
    size_t out_stride;
    float *scale; /* [rows][ceil(width / block)] */
    int32_t *sum; /* likewise */
} qc_quantize_blocks_args;

void qc_quantize_blocks_portable(const qc_quantize_blocks_args *args, size_t begin, size_t end);

#endif
