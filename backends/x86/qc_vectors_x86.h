/* Vectors of the level that a file is compiled for: 16 lanes of 32 bits with AVX-512, else 8 with AVX2. What is written
 * with them once has both versions.
 */
#ifndef QC_VECTORS_X86_H
#define QC_VECTORS_X86_H

#include <immintrin.h>
#include <stdbool.h>

#include "qc_base.h"

#define QC_EACH(v) QC_UNROLL for (size_t v = 0; v < 4; ++v)

#if defined(__AVX512F__)
typedef __m512i qc_ints;
typedef __m512 qc_floats;
#define QC_LANES 16
#define QC_VECTOR(name) _mm512_##name
#define qc_load_ints(at) _mm512_loadu_si512(at)
#define qc_bits_of(floats) _mm512_castps_si512(floats)
#else
typedef __m256i qc_ints;
typedef __m256 qc_floats;
#define QC_LANES 8
#define QC_VECTOR(name) _mm256_##name
#define qc_load_ints(at) _mm256_loadu_si256((const __m256i *)(at))
#define qc_bits_of(floats) _mm256_castps_si256(floats)
#endif

/* Unsigned bytes as floats; what lies behind them up to a whole vector is read. */
QC_INLINE qc_floats qc_load_codes(const uint8_t *at) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at)));
#else
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at)));
#endif
}

/* Nearest whole numbers, halves to even. */
QC_INLINE qc_floats qc_nearest(qc_floats x) {
#if defined(__AVX512F__)
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
}

/* Adds to every 32-bit lane the products of its four unsigned and its four signed bytes. */
QC_INLINE qc_ints qc_add_products(qc_ints sums, qc_ints unsigned_bytes, qc_ints signed_bytes) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(sums, unsigned_bytes, signed_bytes);
#else
    /* vpmaddubsw would saturate; words do not. */
    const __m256i even = _mm256_and_si256(unsigned_bytes, _mm256_set1_epi16(0xff));
    const __m256i odd = _mm256_srli_epi16(unsigned_bytes, 8);
    const __m256i signed_even = _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even, signed_even));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(odd, _mm256_srai_epi16(signed_bytes, 8)));
#endif
}

/* The first `count` lanes of a vector. */
QC_INLINE void qc_store_lanes(int32_t *out, qc_ints words, size_t count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_epi32(out, (__mmask16)_bzhi_u32(0xffff, count < 16 ? (uint32_t)count : 16), words);
#else
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count < 8 ? (int32_t)count : 8), lanes);
    _mm256_maskstore_epi32(out, mask, words);
#endif
}

/* The first `count` of the bytes [skip, end) of a vector; `skip` is 0, a quarter or a half of it. */
QC_INLINE void qc_store_bytes(void *out, qc_ints bytes, size_t skip, size_t count) {
#if defined(__AVX512F__)
    if (skip == 32) bytes = _mm512_shuffle_i64x2(bytes, bytes, 0xee);
    if (skip == 16) bytes = _mm512_shuffle_i64x2(bytes, bytes, 0xf9);
    if (skip == 48) bytes = _mm512_shuffle_i64x2(bytes, bytes, 0xff);
    _mm512_mask_storeu_epi8(out, _bzhi_u64(~0ull, count < 64 ? (uint32_t)count : 64), bytes);
#else
    if (count + skip == 32 && !skip) {
        _mm256_storeu_si256((__m256i *)out, bytes);
    } else if (count == 16 && skip % 16 == 0) {
        _mm_storeu_si128((__m128i *)out, skip ? _mm256_extracti128_si256(bytes, 1) : _mm256_castsi256_si128(bytes));
    } else {
        uint8_t all[32];
        _mm256_storeu_si256((__m256i *)all, bytes);
        memcpy(out, all + skip, count);
    }
#endif
}

/* Four vectors whose columns stand in lanes (qc_depthwise_i8.h) to vectors in order. */
QC_INLINE void qc_in_order(qc_ints v[4]) {
#if defined(__AVX512F__)
    __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
    __m512i c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_i32x4(a, c, 0x88), v[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[2] = _mm512_shuffle_i32x4(b, d, 0x88), v[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
#else
    __m256i a = _mm256_permute2x128_si256(v[0], v[1], 0x20), b = _mm256_permute2x128_si256(v[2], v[3], 0x20);
    __m256i c = _mm256_permute2x128_si256(v[0], v[1], 0x31), d = _mm256_permute2x128_si256(v[2], v[3], 0x31);
    v[0] = a, v[1] = b, v[2] = c, v[3] = d;
#endif
}

/* Bytes that were packed from four vectors in order, which packing leaves in lanes, in order. */
QC_INLINE qc_ints qc_packed_in_order(qc_ints bytes) {
#if defined(__AVX512F__)
    const __m512i from = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(from, bytes);
#else
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#endif
}

#endif
