/* Signs by 512 bits: eight columns a word each, against one word of a row that is broadcast from memory; four rows and
 * sixteen columns at a time.
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
#define ROWS 4 /* and two panels: 16 counters, 4 weights and what is in between fit 32 registers */

/* The low halves of all lanes of two registers: the counts of 16 columns, or of 8 when both are the same. */
static inline __m512i narrow(__m512i low, __m512i high) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_epi32(low, even, high);
}

/* `rows` rows of a tile against one or two panels. */
QC_B1_INLINE void count_panels(const uint64_t *signs, const uint8_t *weight, size_t pairs, int32_t terms, int32_t *sums,
                               const int rows, const int panels) {
    __m512i ones[ROWS][2], twos[ROWS][2];
    for (int r = 0; r < rows; ++r)
        for (int p = 0; p < panels; ++p) ones[r][p] = twos[r][p] = _mm512_setzero_si512();
    for (size_t pair = 0; pair < pairs; ++pair, signs += 2 * TILE)
        for (int p = 0; p < panels; ++p) {
            const uint8_t *at = weight + ((size_t)p * pairs + pair) * 128;
            const __m512i first = _mm512_loadu_si512(at), both = _mm512_loadu_si512(at + 64);
            for (int r = 0; r < rows; ++r) {
                const __m512i differ = _mm512_set1_epi64((long long)signs[2 * r + 1]);
                const __m512i one = _mm512_xor_si512(first, _mm512_set1_epi64((long long)signs[2 * r]));
                const __m512i next = _mm512_ternarylogic_epi64(ones[r][p], both, differ, 0x96);
                const __m512i carry = _mm512_ternarylogic_epi64(ones[r][p], next, one, 0xb2);
                twos[r][p] = _mm512_add_epi64(twos[r][p], _mm512_popcnt_epi64(carry));
                ones[r][p] = next;
            }
        }
    for (int r = 0; r < rows; ++r) {
        const __m512i two = narrow(twos[r][0], twos[r][panels - 1]);
        const __m512i one = narrow(_mm512_popcnt_epi64(ones[r][0]), _mm512_popcnt_epi64(ones[r][panels - 1]));
        const __m512i differ = _mm512_add_epi32(_mm512_add_epi32(two, two), one);
        const __m512i sum = _mm512_sub_epi32(_mm512_set1_epi32(terms), _mm512_add_epi32(differ, differ));
        if (panels == 2)
            _mm512_storeu_si512(sums + r * QC_B1_SPAN, sum);
        else
            _mm256_storeu_si256((__m256i *)(sums + r * QC_B1_SPAN), _mm512_castsi512_si256(sum));
    }
}

QC_B1_INLINE void count_tile(const uint64_t *signs, size_t rows, const uint8_t *weight, size_t pairs, int32_t terms,
                             int32_t *sums, const int panels) {
    if (rows == 1)
        count_panels(signs, weight, pairs, terms, sums, 1, panels);
    else
        count_panels(signs, weight, pairs, terms, sums, ROWS, panels);
    if (rows > ROWS)
        count_panels(signs + 2 * ROWS, weight, pairs, terms, sums + ROWS * QC_B1_SPAN, ROWS, panels);
}

static inline void count_rows(const uint64_t *signs, size_t rows, const uint8_t *weight, size_t panels, size_t pairs,
                              int32_t terms, int32_t *sums) {
    size_t panel = 0;
    for (; panel + 1 < panels; panel += 2)
        count_tile(signs, rows, weight + panel * pairs * 128, pairs, terms, sums + panel * LANES, 2);
    if (panel < panels) count_tile(signs, rows, weight + panel * pairs * 128, pairs, terms, sums + panel * LANES, 1);
}

#define LEVEL ((qc_b1_level){TILE, LANES, 1, count_rows})

#endif
