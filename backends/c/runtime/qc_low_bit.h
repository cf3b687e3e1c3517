/* Where codes of few bits lie, for all kernels that read them.
 *
 * The codes of one panel of C outputs come in runs of D inputs: a run has C * D lanes, lane c * D + d is output c,
 * input d of the run. A chunk of runs is packed into vectors of C * D words; all words have 8 or all have 32 bits. Run
 * r of
 *
 *   8, 4, 2 bits   lies in vector r / n, n = word / bits, at bit (r % n) * bits of the lane's word
 *   3 bits         three vectors hold `word` runs. With w = word / 3 whole codes in a word, run r < 3 * w lies in
 *                  vector r / w at bit (r % w) * 3; of the last two runs the low two bits are the uppermost of the
 *                  first and of the second vector, the high bits are bits word - 2 and word - 1 of the third.
 *
 * Inputs are in blocks, which share a scale: each starts with a new chunk. A chunk is 16 inputs, 32 for 3 bits (twice
 * as many where D is 8); codes that are missing at the end of a block are zero, as are missing outputs
 * (128 for codes of 8 bits in panels of 8 outputs, whose kernels multiply codes less 128).
 */
#ifndef QC_LOW_BIT_H
#define QC_LOW_BIT_H

#include "qc_base.h"

/* Inputs of a chunk. */
QC_INLINE size_t qc_chunk_inputs(unsigned bits, size_t run_depth) {
    size_t inputs = run_depth == 8 ? 32 : 16;
    return bits == 3 ? 2 * inputs : inputs;
}

/* How a row of `depth` inputs is divided. */
typedef struct {
    size_t blocks, chunk, full, last; /* blocks, inputs of a chunk, chunks of a block and of the last one */
    size_t bytes;                     /* of a chunk of a panel */
} qc_division;

QC_INLINE qc_division qc_divide(size_t depth, size_t block, unsigned bits, size_t columns, size_t run_depth) {
    qc_division d;
    d.blocks = (depth + block - 1) / block;
    d.chunk = qc_chunk_inputs(bits, run_depth);
    d.full = (block + d.chunk - 1) / d.chunk;
    d.last = (depth - (d.blocks - 1) * block + d.chunk - 1) / d.chunk;
    d.bytes = columns * d.chunk * bits / 8;
    return d;
}

/* Bytes of a panel. */
QC_INLINE size_t qc_panel_bytes(const qc_division *d) { return ((d->blocks - 1) * d->full + d->last) * d->bytes; }

QC_INLINE unsigned qc_field(const uint8_t *word_bytes, size_t bit, unsigned bits) {
    const size_t first = bit / 8, last = (bit + bits - 1) / 8;
    const unsigned both = word_bytes[first] | (unsigned)word_bytes[last] << (first == last ? 0 : 8);
    return both >> bit % 8 & ((1u << bits) - 1);
}

/* One code: of `lane` in `run` of a chunk. */
QC_INLINE unsigned qc_code_at(const uint8_t *chunk, unsigned bits, unsigned word, size_t lanes, size_t run,
                              size_t lane) {
    const size_t bytes = word / 8, vector = lanes * bytes;
    const uint8_t *first = chunk + lane * bytes;
    if (bits != 3) return qc_field(first + run / (word / bits) * vector, run % (word / bits) * bits, bits);
    first += run / word * 3 * vector;
    const size_t whole = word / 3, at = run % word;
    if (at < 3 * whole) return qc_field(first + at / whole * vector, at % whole * 3, 3);
    const size_t left = at - 3 * whole;
    return qc_field(first + left * vector, word - 2, 2) | qc_field(first + 2 * vector, word - 2 + left, 1) << 2;
}

#endif
