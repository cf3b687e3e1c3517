/* 64 signs by two comparisons of codes or eight of floats, whose highest bits are gathered. */
#include <immintrin.h>

#include "qc_pack_rows.h"

static inline uint64_t less_reals(const float *x, const float *threshold) {
    uint64_t bits = 0;
    for (int part = 0; part < 8; ++part) {
        const __m256 bound = threshold ? _mm256_loadu_ps(threshold + 8 * part) : _mm256_setzero_ps();
        const __m256 less = _mm256_cmp_ps(_mm256_loadu_ps(x + 8 * part), bound, _CMP_LT_OQ);
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(less) << 8 * part;
    }
    return bits;
}

/* Unsigned: less is not equal to the greater of both. */
static inline uint32_t not_less_codes(const qc_act *x, const qc_act *threshold) {
    const __m256i code = _mm256_loadu_si256((const __m256i *)x);
    const __m256i bound = _mm256_loadu_si256((const __m256i *)threshold);
    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(code, bound), code));
}

static inline uint64_t word_at(const qc_pack_bits_args *args, size_t m, size_t k) {
    const size_t at = m * args->stride + k;
    if (args->codes) {
        const qc_act *codes = args->codes + at, *threshold = args->code_threshold + k;
        return ~(not_less_codes(codes, threshold) | (uint64_t)not_less_codes(codes + 32, threshold + 32) << 32);
    }
    /* One call for each, so that nothing inside asks. */
    if (args->threshold) return less_reals(args->reals + at, args->threshold + k);
    return less_reals(args->reals + at, NULL);
}

void qc_pack_bits_avx2(const qc_pack_bits_args *args, size_t begin, size_t end) {
    qc_pack_rows(args, begin, end, word_at);
}
