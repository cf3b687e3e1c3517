/* Codes below 16 become floats by vpermps, which looks at four bits of each lane only: fields need no mask. A weight
 * costs a shift, a permutation, a difference and a product; for many rows it is made once and read by 24 vfmadd of a
 * tile of 12 rows by 32 outputs, with 12 broadcasts and 2 loads.
 */
#include <immintrin.h>

#define QC_KERNEL qc_gemm_wnf32_avx512
#define QC_COLUMNS 16
#define QC_LANES 16
#define QC_ROWS 12
#define QC_FEW_ROWS 4
#define QC_MANY_PANELS 2
#define QC_PANELS 4

#include "qc_low_bit.h"

typedef __m512i words;
typedef __m512 reals;
typedef const float *quad;
typedef __m512 entries;

QC_INLINE words load_words(const uint32_t *at) { return _mm512_loadu_si512((const void *)at); }
QC_INLINE words next(words x, unsigned bits) { return _mm512_srli_epi32(x, bits); }
QC_INLINE words with_third_bit(words low, words high) {
    return _mm512_ternarylogic_epi32(low, _mm512_slli_epi32(high, 2), _mm512_set1_epi32(4), 0xf8); /* low | high & 4 */
}
QC_INLINE reals level(words x, unsigned bits) {
    if (bits == 8) return _mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32(255)));
    const int top = (1 << bits) - 1;
#define QC_LEVEL(i) (float)((i) & top)
    const reals table = _mm512_setr_ps(QC_LEVEL(0), QC_LEVEL(1), QC_LEVEL(2), QC_LEVEL(3), QC_LEVEL(4), QC_LEVEL(5),
                                       QC_LEVEL(6), QC_LEVEL(7), QC_LEVEL(8), QC_LEVEL(9), QC_LEVEL(10), QC_LEVEL(11),
                                       QC_LEVEL(12), QC_LEVEL(13), QC_LEVEL(14), QC_LEVEL(15));
#undef QC_LEVEL
    return _mm512_permutexvar_ps(x, table);
}
QC_INLINE entries load_entries(const float *at) { return _mm512_loadu_ps(at); }
QC_INLINE reals entry(entries table, words x, unsigned bits) {
    (void)bits;
    return _mm512_permutexvar_ps(x, table);
}
QC_INLINE reals load_bytes(const uint8_t *at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)at)));
}
QC_INLINE reals all_reals(float x) { return _mm512_set1_ps(x); }
QC_INLINE reals load_reals(const float *at) { return _mm512_loadu_ps(at); }
QC_INLINE void store_reals(float *at, reals x) { _mm512_storeu_ps(at, x); }
QC_INLINE reals minus(reals x, reals y) { return _mm512_sub_ps(x, y); }
QC_INLINE reals times(reals x, reals y) { return _mm512_mul_ps(x, y); }
QC_INLINE reals fused(reals x, reals y, reals z) { return _mm512_fmadd_ps(x, y, z); }

QC_INLINE quad four_inputs(const float *at) { return at; }
QC_INLINE reals add_product(reals acc, reals weight, quad four, int lane) {
    return _mm512_fmadd_ps(all_reals(four[lane]), weight, acc);
}

#include "qc_gemm_wnf32_tile.h"
