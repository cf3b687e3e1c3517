/* vpdpbusd multiplies codes of weights (unsigned) by those of activations (signed): 64 MAC.
 *
 * Large tile, 6 rows by 4 panels: for every 4 inputs 24 vpdpbusd, 6 broadcasts that they share and 4 loads of codes
 * that were unpacked for all rows. A single row: the codes of a byte are masked, not shifted; what was not shifted
 * makes sums 4, 8, 16, ... times as large, which are kept apart (that also makes enough independent chains) and shifted
 * once for every block.
 */
#ifndef QC_GEMM_WNA8_VNNI_H
#define QC_GEMM_WNA8_VNNI_H

#include <immintrin.h>

#define QC_COLUMNS 16
#define QC_DEPTH 4
#define QC_CHUNK 16
#define QC_LANES 16
#define QC_ROWS 6
#define QC_FEW_ROWS 4
#define QC_MANY_PANELS 4
#define QC_DECODED 512
#define QC_PANELS 4
#define QC_GATHERS 0
#define QC_MOST_SUMS 24
#define QC_OFFSET(bits) ((void)(bits), 0)

#include "qc_low_bit.h"

typedef __m512i ints;
typedef __m512 reals;

#define QC_SUMS(bits, rows) ((rows) > 1 ? 1 : (bits) == 3 ? 5 : (bits) == 2 ? 4 : 2)

QC_INLINE ints all_ints(int32_t x) { return _mm512_set1_epi32(x); }
QC_INLINE reals all_reals(float x) { return _mm512_set1_ps(x); }
QC_INLINE reals load_reals(const float *at) { return _mm512_loadu_ps(at); }
QC_INLINE void store_reals(float *at, reals x) { _mm512_storeu_ps(at, x); }
QC_INLINE ints load_bytes(const uint8_t *at) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)at)); }
QC_INLINE ints plus(ints x, ints y) { return _mm512_add_epi32(x, y); }
QC_INLINE ints product(ints x, ints y) { return _mm512_mullo_epi32(x, y); }
QC_INLINE ints minus_product(ints x, ints y, ints z) { return _mm512_sub_epi32(x, _mm512_mullo_epi32(y, z)); }
QC_INLINE reals to_reals(ints x) { return _mm512_cvtepi32_ps(x); }
QC_INLINE reals times(reals x, reals y) { return _mm512_mul_ps(x, y); }
QC_INLINE reals fused(reals x, reals y, reals z) { return _mm512_fmadd_ps(x, y, z); }

QC_INLINE ints shifted(ints x, int by) { return _mm512_srai_epi32(x, (unsigned)by); }

QC_INLINE void turn(ints *sums, int rows, int wide) { (void)sums, (void)rows, (void)wide; }

QC_INLINE void set_sums(ints *sums, ints x, int count) {
    sums[0] = x;
    QC_UNROLL for (int i = 1; i < count; ++i) sums[i] = all_ints(0);
}

QC_INLINE ints fold(const ints *sums, unsigned bits, int rows) {
    if (rows > 1) return sums[0];
    if (bits > 4) return plus(sums[0], sums[1]);
    if (bits == 4) return plus(sums[0], shifted(sums[1], 4));
    if (bits == 2)
        return plus(plus(sums[0], shifted(sums[1], 2)), plus(shifted(sums[2], 4), shifted(sums[3], 6)));
    return plus(plus(plus(sums[0], shifted(sums[1], 3)), shifted(sums[2], 6)),
                plus(shifted(sums[3], 4), shifted(sums[4], 5)));
}

QC_INLINE ints load_codes(const uint8_t *at) { return _mm512_loadu_si512((const void *)at); }
QC_INLINE ints masked(ints x, int mask) { return _mm512_and_si512(x, _mm512_set1_epi8((char)mask)); }
/* Bits of bytes move down; those that come in from the neighbouring byte are masked away. */
QC_INLINE ints lowered(ints x, int by, int mask) { return masked(_mm512_srli_epi16(x, (unsigned)by), mask); }

QC_INLINE ints inputs_of(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm512_set1_epi32(four);
}

/* The codes of one run of a chunk. */
QC_INLINE ints codes_of(const uint8_t *chunk, unsigned bits, int run) {
    if (bits > 4) return load_codes(chunk + 64 * run);
    if (bits == 4) return lowered(load_codes(chunk + run / 2 * 64), run % 2 * 4, 15);
    if (bits == 2) return lowered(load_codes(chunk), run * 2, 3);
    if (run < 6) return lowered(load_codes(chunk + run / 2 * 64), run % 2 * 3, 7);
    const ints high = _mm512_srli_epi16(load_codes(chunk + 128), run == 6 ? 4 : 5);
    const ints low = lowered(load_codes(chunk + (run - 6) * 64), 6, 3);
    return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(4), 0xf8); /* low | high & 4 */
}

QC_INLINE void decode(const uint8_t *chunk, unsigned bits, uint8_t *to) {
    const int runs = bits == 3 ? 8 : 4;
    QC_UNROLL for (int run = 0; run < runs; ++run)
        _mm512_storeu_si512((void *)(to + 64 * run), codes_of(chunk, bits, run));
}

/* `rows` is above one. */
QC_INLINE void chunk_of_rows(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                             int rows, int panels, unsigned bits) {
    const int runs = bits == 3 ? 8 : 4;
    QC_UNROLL for (int run = 0; run < runs; ++run) {
        ints codes[QC_MANY_PANELS];
        QC_UNROLL for (int p = 0; p < panels; ++p) codes[p] = codes_of(weight + (size_t)p * panel_bytes, bits, run);
        QC_UNROLL for (int r = 0; r < rows; ++r) {
            const ints four = inputs_of(input + (size_t)r * stride + 4 * run);
            QC_UNROLL for (int p = 0; p < panels; ++p)
                sums[r * panels + p] = _mm512_dpbusd_epi32(sums[r * panels + p], codes[p], four);
        }
    }
}

/* Adds to `sum` the products of run `run` with codes that are masked where they lie. */
#define QC_ADD(sum, x, mask, run) \
    sums[sum] = _mm512_dpbusd_epi32(sums[sum], masked(x, mask), inputs_of(input + 4 * (run)))

QC_INLINE void chunk_of_row(ints *sums, const uint8_t *weight, const int8_t *input, unsigned bits) {
    const ints a = load_codes(weight);
    if (bits == 2) {
        QC_ADD(0, a, 0x03, 0);
        QC_ADD(1, a, 0x0c, 1);
        QC_ADD(2, a, 0x30, 2);
        QC_ADD(3, a, 0xc0, 3);
        return;
    }
    const ints b = load_codes(weight + 64);
    if (bits == 4) {
        QC_ADD(0, a, 0x0f, 0);
        QC_ADD(1, a, 0xf0, 1);
        QC_ADD(0, b, 0x0f, 2);
        QC_ADD(1, b, 0xf0, 3);
        return;
    }
    const ints c = load_codes(weight + 128);
    if (bits > 4) {
        QC_ADD(0, a, 0xff, 0);
        QC_ADD(1, b, 0xff, 1);
        QC_ADD(0, c, 0xff, 2);
        QC_ADD(1, load_codes(weight + 192), 0xff, 3);
        return;
    }
    QC_ADD(0, a, 0x07, 0);
    QC_ADD(1, a, 0x38, 1);
    QC_ADD(2, a, 0xc0, 6);
    QC_ADD(0, b, 0x07, 2);
    QC_ADD(1, b, 0x38, 3);
    QC_ADD(2, b, 0xc0, 7);
    QC_ADD(0, c, 0x07, 4);
    QC_ADD(1, c, 0x38, 5);
    QC_ADD(3, c, 0x40, 6); /* 4 * 16 */
    QC_ADD(4, c, 0x80, 7); /* 4 * 32 */
}

QC_INLINE void chunk(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                     int rows, int panels, unsigned bits) {
    if (rows > 1) {
        chunk_of_rows(sums, weight, panel_bytes, input, stride, rows, panels, bits);
        return;
    }
    QC_UNROLL for (int p = 0; p < panels; ++p)
        chunk_of_row(sums + p * QC_SUMS(bits, 1), weight + (size_t)p * panel_bytes, input, bits);
}

#include "qc_gemm_wna8_tile.h"

#endif
