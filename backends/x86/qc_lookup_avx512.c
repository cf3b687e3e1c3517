/* qc_lookup by two permutations of 128 bytes each: 64 codes in three instructions beside load and store. */
#include <immintrin.h>

#include "qc_lookup.h"

void qc_lookup_avx512(const qc_lookup_args *args, size_t begin, size_t end) {
    const size_t last = qc_lookup_end(args, end);
    __m512i table[4];
    for (size_t t = 0; t < 4; ++t) table[t] = _mm512_loadu_si512(args->table + 64 * t);
    for (size_t i = begin * QC_LOOKUP_RUN; i < last; i += 64) {
        const __mmask64 here = last - i < 64 ? ((__mmask64)1 << (last - i)) - 1 : ~(__mmask64)0;
        const __m512i codes = _mm512_maskz_loadu_epi8(here, args->input + i);
        const __m512i low = _mm512_permutex2var_epi8(table[0], codes, table[1]);
        const __m512i high = _mm512_permutex2var_epi8(table[2], codes, table[3]);
        _mm512_mask_storeu_epi8(args->out + i, here, _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high));
    }
}
