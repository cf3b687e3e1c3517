/* Activations to signs, a row (a pixel in channels-last order, a token) at a time.
 *
 *   bit[m][k] = (input[m][k] < threshold[k]) xor flip[k]
 *
 * in whole words of 8 bytes per row, zero behind the last channel: what qc_gemm_b1 reads. Input is float, or codes as
 * stored with thresholds that are whole numbers; without `threshold` reals are compared with zero, without `flip`
 * nothing is flipped. Zeros of both signs and NaN are not less than zero: bit 0, the sign 1.
 *
 * Tasks are rows m.
 */
#ifndef QC_PACK_BITS_H
#define QC_PACK_BITS_H

#include "qc_base.h"

typedef struct {
    const float *reals; /* [rows][stride], NULL when codes are given */
    const qc_act *codes;
    size_t stride; /* elements from row to row */
    size_t channels;
    const float *threshold; /* [channels] or NULL, for reals */
    const qc_act *code_threshold; /* [channels] for codes, as stored: the zero point is the zero */
    const uint8_t *flip;    /* bits in whole words, zero behind the last channel, or NULL */
    uint8_t *out;
    size_t out_stride; /* bytes from row to row, whole words */
} qc_pack_bits_args;

void qc_pack_bits_portable(const qc_pack_bits_args *args, size_t begin, size_t end);
void qc_pack_bits_avx2(const qc_pack_bits_args *args, size_t begin, size_t end);
void qc_pack_bits_avx512(const qc_pack_bits_args *args, size_t begin, size_t end);
void qc_pack_bits_neon(const qc_pack_bits_args *args, size_t begin, size_t end);

#endif
