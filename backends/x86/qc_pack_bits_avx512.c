/* 64 signs by one comparison of codes or four of floats, whose masks are the bits. */
#include <immintrin.h>

#include "qc_pack_rows.h"

static inline __mmask16 less(const float *x, const float *threshold, int part) {
    const __m512 bound = threshold ? _mm512_loadu_ps(threshold + 16 * part) : _mm512_setzero_ps();
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(x + 16 * part), bound, _CMP_LT_OQ);
}

static inline uint64_t less_reals(const float *x, const float *threshold) {
    const __mmask32 low = _mm512_kunpackw(less(x, threshold, 1), less(x, threshold, 0));
    const __mmask32 high = _mm512_kunpackw(less(x, threshold, 3), less(x, threshold, 2));
    return _mm512_kunpackd(high, low);
}

static inline uint64_t word_at(const qc_pack_bits_args *args, size_t m, size_t k) {
    const size_t at = m * args->stride + k;
    if (args->codes)
        return _mm512_cmplt_epu8_mask(_mm512_loadu_si512(args->codes + at),
                                      _mm512_loadu_si512(args->code_threshold + k));
    /* One call for each, so that nothing inside asks. */
    if (args->threshold) return less_reals(args->reals + at, args->threshold + k);
    return less_reals(args->reals + at, NULL);
}

void qc_pack_bits_avx512(const qc_pack_bits_args *args, size_t begin, size_t end) {
    qc_pack_rows(args, begin, end, word_at);
}
