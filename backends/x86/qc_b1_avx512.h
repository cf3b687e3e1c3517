/* Signs by 512 bits: eight columns a word each, against one word of up to eight rows that is broadcast from memory.
 *
 * Two words go through a carry-save adder before anything is counted. With x1 = a1 ^ w1 and x2 = a2 ^ w2,
 *   ones' = ones ^ x1 ^ x2 = ones ^ (a1 ^ a2) ^ (w1 ^ w2)         one vpternlogq, because pairs are chained
 *   carry = majority(ones, x1, x2) = (ones ^ ones') ? ones : x1   vpxorq, vpternlogq
 *   twos += popcount(carry)                                       vpopcntq, vpaddq
 * that is 5 instructions for 1024 multiply-accumulates; plain counting takes 6.
 */
#ifndef QC_B1_AVX512_H
#define QC_B1_AVX512_H

#include <immintrin.h>

#include "qc_b1_tile.h"

#define TILE 8
#define LANES 8

static inline __attribute__((always_inline)) void count_panel(const uint64_t *signs, const uint8_t *weight,
                                                              size_t pairs, int32_t terms, int32_t *sums,
                                                              const int rows) {
    __m512i ones[TILE], twos[TILE];
    for (int r = 0; r < rows; ++r) ones[r] = twos[r] = _mm512_setzero_si512();
    for (size_t pair = 0; pair < pairs; ++pair, signs += 2 * TILE, weight += 128) {
        const __m512i first = _mm512_loadu_si512(weight), both = _mm512_loadu_si512(weight + 64);
        for (int r = 0; r < rows; ++r) {
            const __m512i one = _mm512_xor_si512(first, _mm512_set1_epi64((long long)signs[2 * r]));
            const __m512i next = _mm512_ternarylogic_epi64(
                ones[r], both, _mm512_set1_epi64((long long)signs[2 * r + 1]), 0x96);
            const __m512i carry = _mm512_ternarylogic_epi64(ones[r], next, one, 0xb2);
            twos[r] = _mm512_add_epi64(twos[r], _mm512_popcnt_epi64(carry));
            ones[r] = next;
        }
    }
    for (int r = 0; r < rows; ++r) {
        const __m512i differ = _mm512_add_epi64(_mm512_add_epi64(twos[r], twos[r]), _mm512_popcnt_epi64(ones[r]));
        const __m256i twice = _mm512_cvtepi64_epi32(_mm512_add_epi64(differ, differ));
        _mm256_storeu_si256((__m256i *)(sums + r * QC_B1_SPAN), _mm256_sub_epi32(_mm256_set1_epi32(terms), twice));
    }
}

static inline void count_rows(const uint64_t *signs, size_t rows, const uint8_t *weight, size_t panels, size_t pairs,
                              int32_t terms, int32_t *sums) {
    for (size_t panel = 0; panel < panels; ++panel, weight += pairs * 2 * LANES * 8, sums += LANES) {
        if (rows == 1)
            count_panel(signs, weight, pairs, terms, sums, 1);
        else if (rows == 2)
            count_panel(signs, weight, pairs, terms, sums, 2);
        else if (rows <= 4)
            count_panel(signs, weight, pairs, terms, sums, 4);
        else
            count_panel(signs, weight, pairs, terms, sums, TILE);
    }
}

#define LEVEL ((qc_b1_level){TILE, LANES, 1, count_rows})

#endif
