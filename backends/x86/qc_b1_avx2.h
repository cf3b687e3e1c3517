/* Signs by 256 bits: four columns of the panel of eight, against one word of up to four rows.
 *
 * The carry-save adder of qc_b1_avx512.h, a select by bits being three instructions here, sums two words at once;
 * bits are counted by a table of 16 (vpshufb), in bytes that are summed before they can overflow.
 */
#ifndef QC_B1_AVX2_H
#define QC_B1_AVX2_H

#include <immintrin.h>

#include "qc_b1_tile.h"

#define TILE 4
#define LANES 4
#define PANEL 8
#define FLUSH 31 /* times 8 bits of a byte stay below 256 */

static inline __m256i popcount_bytes(__m256i bits) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                           2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(bits, nibble));
    return _mm256_add_epi8(low, _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble)));
}

static inline __m256i sum_bytes(__m256i bytes) {
    return _mm256_sad_epu8(bytes, _mm256_setzero_si256());
}

static inline __attribute__((always_inline)) void count_half(const uint64_t *signs, const uint8_t *weight,
                                                             size_t pairs, int32_t terms, int32_t *sums,
                                                             const int rows) {
    __m256i ones[TILE], twos[TILE];
    for (int r = 0; r < rows; ++r) ones[r] = twos[r] = _mm256_setzero_si256();
    for (size_t begin = 0; begin < pairs; begin += FLUSH) {
        __m256i bytes[TILE];
        for (int r = 0; r < rows; ++r) bytes[r] = _mm256_setzero_si256();
        for (size_t pair = begin; pair < pairs && pair < begin + FLUSH; ++pair, signs += 2 * TILE) {
            const __m256i first = _mm256_loadu_si256((const __m256i *)(weight + pair * 128));
            const __m256i both = _mm256_loadu_si256((const __m256i *)(weight + pair * 128 + 64));
            for (int r = 0; r < rows; ++r) {
                const __m256i one = _mm256_xor_si256(first, _mm256_set1_epi64x((long long)signs[2 * r]));
                const __m256i differ = _mm256_xor_si256(both, _mm256_set1_epi64x((long long)signs[2 * r + 1]));
                const __m256i carry =
                    _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(ones[r], one), differ), one);
                bytes[r] = _mm256_add_epi8(bytes[r], popcount_bytes(carry));
                ones[r] = _mm256_xor_si256(ones[r], differ);
            }
        }
        for (int r = 0; r < rows; ++r) twos[r] = _mm256_add_epi64(twos[r], sum_bytes(bytes[r]));
    }
    for (int r = 0; r < rows; ++r) {
        const __m256i single = sum_bytes(popcount_bytes(ones[r]));
        const __m256i all = _mm256_add_epi64(_mm256_add_epi64(twos[r], twos[r]), single);
        const __m256i even = _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
        const __m128i twice = _mm_slli_epi32(_mm256_castsi256_si128(even), 1);
        _mm_storeu_si128((__m128i *)(sums + r * QC_B1_SPAN), _mm_sub_epi32(_mm_set1_epi32(terms), twice));
    }
}

static inline void count_rows(const uint64_t *signs, size_t rows, const uint8_t *weight, size_t panels, size_t pairs,
                              int32_t terms, int32_t *sums) {
    for (size_t half = 0; half < 2 * panels; ++half, sums += LANES) {
        const uint8_t *part = weight + half / 2 * pairs * 2 * PANEL * 8 + half % 2 * LANES * 8;
        if (rows == 1)
            count_half(signs, part, pairs, terms, sums, 1);
        else
            count_half(signs, part, pairs, terms, sums, TILE);
    }
}

#define LEVEL ((qc_b1_level){TILE, PANEL, 1, count_rows})

#endif
