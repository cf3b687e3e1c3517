/* What the fast versions of qc_pack_bits share. */
#ifndef QC_PACK_ROWS_H
#define QC_PACK_ROWS_H

#include "qc_bits.h"
#include "qc_pack_bits.h"

/* 64 comparisons from channel k of row m; what lies behind the last channel may be anything. */
typedef uint64_t qc_pack_word(const qc_pack_bits_args *args, size_t m, size_t k);

static inline __attribute__((always_inline)) void qc_pack_rows(const qc_pack_bits_args *args, size_t begin, size_t end,
                                                               qc_pack_word *word_at) {
    for (size_t m = begin; m < end; ++m) {
        uint8_t *out = args->out + m * args->out_stride;
        for (size_t k = 0; k < args->channels; k += 64, out += 8) {
            const size_t left = args->channels - k;
            uint64_t bits = word_at(args, m, k);
            if (left < 64) bits &= ((uint64_t)1 << left) - 1;
            if (args->flip) bits ^= qc_bit_word(args->flip + k / 8);
            memcpy(out, &bits, sizeof bits);
        }
    }
}

#endif
