/* 64 signs by one comparison of codes or four of floats, whose masks are the bits. */
#include <immintrin.h>

#include "qc_bits.h"
#include "qc_pack_bits.h"

static inline uint64_t less_reals(const float *x, const float *threshold) {
    uint64_t bits = 0;
    for (int part = 0; part < 4; ++part) {
        const __m512 bound = threshold ? _mm512_loadu_ps(threshold + 16 * part) : _mm512_setzero_ps();
        bits |= (uint64_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(x + 16 * part), bound, _CMP_LT_OQ) << 16 * part;
    }
    return bits;
}

void qc_pack_bits_avx512(const qc_pack_bits_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        uint8_t *out = args->out + m * args->out_stride;
        for (size_t k = 0; k < args->channels; k += 64, out += 8) {
            const size_t at = m * args->stride + k, left = args->channels - k;
            uint64_t bits;
            if (args->codes)
                bits = _mm512_cmplt_epu8_mask(_mm512_loadu_si512(args->codes + at),
                                              _mm512_loadu_si512(args->code_threshold + k));
            else
                bits = less_reals(args->reals + at, args->threshold ? args->threshold + k : NULL);
            if (left < 64) bits &= ((uint64_t)1 << left) - 1;
            if (args->flip) bits ^= qc_bit_word(args->flip + k / 8);
            memcpy(out, &bits, sizeof bits);
        }
    }
}
