/* vpmaddubsw multiplies codes of weights (unsigned) by those of activations (signed) and adds pairs in int16: with
 * codes below 16 four of them add up without saturating (8 * 15 * 127 < 2^15), which one vpmaddwd makes int32. For
 * every 16 inputs and vector of 8 outputs: 4 products, 3 sums, one vpmaddwd, one sum, that is 128 MAC in 9 operations.
 * Codes of 8 bits are taken as two halves of 4.
 */
#include <immintrin.h>

#define QC_COLUMNS 16
#define QC_DEPTH 4
#define QC_CHUNK 16
#define QC_LANES 8
#define QC_ROWS 4
#define QC_FEW_ROWS 2
#define QC_MANY_PANELS 1
#define QC_DECODED 512
#define QC_PANELS 2
#define QC_GATHERS 0
#define QC_MOST_SUMS 8
#define QC_OFFSET(bits) ((void)(bits), 0)
#define QC_SUMS(bits, rows) ((void)(bits), (void)(rows), 1)

#include "qc_low_bit.h"

typedef __m256i ints;
typedef __m256 reals;

QC_INLINE ints all_ints(int32_t x) { return _mm256_set1_epi32(x); }
QC_INLINE reals all_reals(float x) { return _mm256_set1_ps(x); }
QC_INLINE reals load_reals(const float *at) { return _mm256_loadu_ps(at); }
QC_INLINE void store_reals(float *at, reals x) { _mm256_storeu_ps(at, x); }
QC_INLINE ints load_bytes(const uint8_t *at) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)at)); }
QC_INLINE ints plus(ints x, ints y) { return _mm256_add_epi32(x, y); }
QC_INLINE ints product(ints x, ints y) { return _mm256_mullo_epi32(x, y); }
QC_INLINE ints minus_product(ints x, ints y, ints z) { return _mm256_sub_epi32(x, _mm256_mullo_epi32(y, z)); }
QC_INLINE reals to_reals(ints x) { return _mm256_cvtepi32_ps(x); }
QC_INLINE reals times(reals x, reals y) { return _mm256_mul_ps(x, y); }
QC_INLINE reals fused(reals x, reals y, reals z) { return _mm256_fmadd_ps(x, y, z); }

QC_INLINE void turn(ints *sums, int rows, int wide) { (void)sums, (void)rows, (void)wide; }

QC_INLINE void set_sums(ints *sums, ints x, int count) {
    (void)count;
    sums[0] = x;
}

QC_INLINE ints fold(const ints *sums, unsigned bits, int rows) {
    (void)bits, (void)rows;
    return sums[0];
}

QC_INLINE ints load_codes(const uint8_t *at) { return _mm256_loadu_si256((const void *)at); }
/* Bits of bytes move down; those that come in from the neighbouring byte are masked away. */
QC_INLINE ints lowered(ints x, int by, int mask) {
    return _mm256_and_si256(_mm256_srli_epi16(x, by), _mm256_set1_epi8((char)mask));
}

QC_INLINE ints inputs_of(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm256_set1_epi32(four);
}

/* The codes of one run of a chunk, of 8 bits the half that is `high` or not. */
QC_INLINE ints codes_of(const uint8_t *chunk, unsigned bits, int run, int high) {
    if (bits == 8) return lowered(load_codes(chunk + 64 * run), 4 * high, 15);
    if (bits > 4) return load_codes(chunk + 64 * run);
    if (bits == 4) return lowered(load_codes(chunk + run / 2 * 64), run % 2 * 4, 15);
    if (bits == 2) return lowered(load_codes(chunk), run * 2, 3);
    if (run < 6) return lowered(load_codes(chunk + run / 2 * 64), run % 2 * 3, 7);
    const ints top = lowered(load_codes(chunk + 128), run == 6 ? 4 : 5, 4);
    return _mm256_or_si256(lowered(load_codes(chunk + (run - 6) * 64), 6, 3), top);
}

QC_INLINE void decode(const uint8_t *chunk, unsigned bits, uint8_t *to) {
    const int runs = bits == 3 ? 8 : 4;
    QC_UNROLL for (int run = 0; run < runs; ++run) {
        QC_UNROLL for (int half = 0; half < 2; ++half)
            _mm256_storeu_si256((void *)(to + 64 * run + 32 * half), codes_of(chunk + 32 * half, bits, run, 0));
    }
}

/* Adds the products of 16 inputs, beginning at run `first` of a chunk. */
QC_INLINE void sixteen(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                       int rows, int panels, unsigned bits, int first, int high) {
    QC_UNROLL for (int i = 0; i < panels * QC_COLUMNS / QC_LANES; ++i) {
        const uint8_t *chunk = weight + (size_t)(i / 2) * panel_bytes + i % 2 * 32;
        ints codes[4];
        QC_UNROLL for (int run = 0; run < 4; ++run) codes[run] = codes_of(chunk, bits, first + run, high);
        QC_UNROLL for (int r = 0; r < rows; ++r) {
            const int8_t *four = input + (size_t)r * stride + 4 * first;
            ints pairs = _mm256_maddubs_epi16(codes[0], inputs_of(four));
            QC_UNROLL for (int run = 1; run < 4; ++run)
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes[run], inputs_of(four + 4 * run)));
            ints *sum = sums + r * panels * QC_COLUMNS / QC_LANES + i;
            *sum = plus(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(high ? 16 : 1)));
        }
    }
}

QC_INLINE void chunk(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                     int rows, int panels, unsigned bits) {
    sixteen(sums, weight, panel_bytes, input, stride, rows, panels, bits, 0, 0);
    if (bits == 8) sixteen(sums, weight, panel_bytes, input, stride, rows, panels, bits, 0, 1);
    if (bits == 3) sixteen(sums, weight, panel_bytes, input, stride, rows, panels, bits, 4, 0);
}

#include "qc_gemm_wna8_tile.h"

void qc_gemm_wna8_avx2(const qc_gemm_wna8_args *args, size_t begin, size_t end) { by_panels(args, begin, end); }
