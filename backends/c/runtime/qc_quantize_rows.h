/* Activations to codes, with a scale for every row that is found on the way: dynamic quantization per token, or of a
 * whole tensor as one row.
 *
 *   low = min(0, smallest of x[m]), high = max(0, largest of x[m]); NaN does not count
 *   asymmetric: scale = (high - low) / (highest - lowest), zero = clip(round(lowest - low / scale))
 *   symmetric:  scale = max(-low, high) / highest, or only high / highest where lowest is 0, zero = 0
 *   code[m][k] = clip(round(x[m][k] / scale) + zero), from `lowest` to `highest`, half to even; NaN becomes `lowest`
 *
 * A row of zeros has scale 1 and zero point 0, a scale is kept between 2^-149 and the largest float. Where high - low
 * overflows, scale = high / (highest - lowest) - low / (highest - lowest).
 * Codes and zero points are stored with `shift` added, in one byte each: qc_act, or int8 with shift 0.
 *
 * Source: ONNX DynamicQuantizeLinear; the same numbers as qc.choose_qparams and qc.quantize of a program.
 *
 * Tasks are rows m.
 */
#ifndef QC_QUANTIZE_ROWS_H
#define QC_QUANTIZE_ROWS_H

#include "qc_lanes.h"

typedef struct {
    const float *input;
    size_t input_stride; /* elements from row to row */
    size_t width;
    int symmetric;
    float lowest, highest; /* codes of the program */
    float shift;           /* what is stored less the code */
    void *out;             /* bytes */
    size_t out_stride;
    float *scale;  /* [rows] */
    int32_t *zero; /* [rows] as stored, or NULL */
    int32_t *sum;  /* [rows] sums of codes without shift, for rows of up to 2^20, or NULL */
} qc_quantize_rows_args;

void qc_quantize_rows_portable(const qc_quantize_rows_args *args, size_t begin, size_t end);

#endif
