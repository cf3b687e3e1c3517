/* Products of signs by 256 bits; how they are counted stands in qc_b1_avx2.h. */
#include "qc_b1_avx2.h"

static inline uint64_t signs_of(const int32_t *sums, const int32_t *threshold) {
    uint64_t bits = 0;
    for (int part = 0; part < 8; ++part) {
        const __m256i bound = _mm256_loadu_si256((const __m256i *)threshold + part);
        const __m256i less = _mm256_cmpgt_epi32(bound, _mm256_loadu_si256((const __m256i *)sums + part));
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(less)) << 8 * part;
    }
    return bits;
}

void qc_gemm_b1_avx2(const qc_gemm_b1_args *args, size_t begin, size_t end) {
    qc_b1_run(args, begin, end, LEVEL, signs_of);
}
