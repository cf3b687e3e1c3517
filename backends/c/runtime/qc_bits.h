/* Words of bits. */
#ifndef QC_BITS_H
#define QC_BITS_H

#include "qc_base.h"

/* Words of 8 bytes that hold so many bits. */
static inline size_t qc_bit_words(size_t bits) {
    return (bits + 63) / 64;
}

static inline uint64_t qc_bit_word(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Sums of neighbours of 1, 2 and 4 bits; the product adds the bytes up in the highest. */
static inline int32_t qc_popcount(uint64_t word) {
    word -= word >> 1 & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int32_t)(word * 0x0101010101010101u >> 56);
}

#endif
