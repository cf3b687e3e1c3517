/* Products of signs by 512 bits; how they are counted stands in qc_b1_avx512.h. */
#include "qc_b1_avx512.h"

static inline uint64_t signs_of(const int32_t *sums, const int32_t *threshold) {
    uint64_t bits = 0;
    for (int part = 0; part < 4; ++part) {
        const __m512i bound = _mm512_loadu_si512(threshold + 16 * part);
        bits |= (uint64_t)_mm512_cmplt_epi32_mask(_mm512_loadu_si512(sums + 16 * part), bound) << 16 * part;
    }
    return bits;
}

void qc_gemm_b1_avx512(const qc_gemm_b1_args *args, size_t begin, size_t end) {
    qc_b1_run(args, begin, end, LEVEL, signs_of);
}
