/* A weight costs a shift, a mask, a conversion, a difference and a product; for many rows it is made once and read by
 * 12 vfmadd of a tile of 6 rows by 16 outputs, with 6 broadcasts and 2 loads.
 */
#include <immintrin.h>

#define QC_KERNEL qc_gemm_wnf32_avx2
#define QC_COLUMNS 16
#define QC_LANES 8
#define QC_ROWS 6
#define QC_FEW_ROWS 3
#define QC_MANY_PANELS 1
#define QC_PANELS 1

#include "qc_low_bit.h"

typedef __m256i words;
typedef __m256 reals;
typedef const float *quad;
typedef struct {
    __m256 low, high;
} entries;

QC_INLINE words load_words(const uint32_t *at) { return _mm256_loadu_si256((const void *)at); }
QC_INLINE words next(words x, unsigned bits) { return _mm256_srli_epi32(x, (int)bits); }
QC_INLINE words with_third_bit(words low, words high) {
    return _mm256_or_si256(low, _mm256_and_si256(_mm256_slli_epi32(high, 2), _mm256_set1_epi32(4)));
}
QC_INLINE reals level(words x, unsigned bits) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32((1 << bits) - 1)));
}
QC_INLINE entries load_entries(const float *at) { return (entries){_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
/* vpermps looks at three bits of each lane; the fourth, as a sign, chooses between both halves. */
QC_INLINE reals entry(entries table, words x, unsigned bits) {
    const reals low = _mm256_permutevar8x32_ps(table.low, x);
    if (bits < 4) return low;
    return _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(table.high, x),
                            _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
}
QC_INLINE reals load_bytes(const uint8_t *at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)at)));
}
QC_INLINE reals all_reals(float x) { return _mm256_set1_ps(x); }
QC_INLINE reals load_reals(const float *at) { return _mm256_loadu_ps(at); }
QC_INLINE void store_reals(float *at, reals x) { _mm256_storeu_ps(at, x); }
QC_INLINE reals minus(reals x, reals y) { return _mm256_sub_ps(x, y); }
QC_INLINE reals times(reals x, reals y) { return _mm256_mul_ps(x, y); }
QC_INLINE reals fused(reals x, reals y, reals z) { return _mm256_fmadd_ps(x, y, z); }

QC_INLINE quad four_inputs(const float *at) { return at; }
QC_INLINE reals add_product(reals acc, reals weight, quad four, int lane) {
    return _mm256_fmadd_ps(all_reals(four[lane]), weight, acc);
}

#include "qc_gemm_wnf32_tile.h"
