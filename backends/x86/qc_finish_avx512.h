/* The epilogues of qc_epilogue.h, 64 columns at a time. Columns behind the last one are computed like any other and not
 * stored.
 */
#ifndef QC_FINISH_AVX512_H
#define QC_FINISH_AVX512_H

#include <immintrin.h>
#include <stdbool.h>

#include "qc_epilogue.h"

#if defined(__clang__)
#define QC_UNROLL _Pragma("unroll")
#else
#define QC_UNROLL _Pragma("GCC unroll 32")
#endif
#define QC_INLINE static inline __attribute__((always_inline))
#define QC_EACH(v) QC_UNROLL for (size_t v = 0; v < 4; ++v)

/* Vectors whose columns stand in lanes (qc_depthwise_i8.h) to vectors in order. */
QC_INLINE void qc_in_order(__m512i words[4]) {
    __m512i a = _mm512_shuffle_i32x4(words[0], words[1], 0x44), b = _mm512_shuffle_i32x4(words[0], words[1], 0xee);
    __m512i c = _mm512_shuffle_i32x4(words[2], words[3], 0x44), d = _mm512_shuffle_i32x4(words[2], words[3], 0xee);
    words[0] = _mm512_shuffle_i32x4(a, c, 0x88), words[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
    words[2] = _mm512_shuffle_i32x4(b, d, 0x88), words[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

/* What the codes of all rows are made with. */
typedef struct {
    __m512 most; /* less the zero point */
    __m512i zero_point, low;
} qc_limits;

QC_INLINE qc_limits qc_limits_of(const qc_epilogue *e) {
    return (qc_limits){_mm512_set1_ps(e->high - e->zero_point), _mm512_set1_epi16((int16_t)e->zero_point),
                       _mm512_set1_epi8((char)(uint8_t)e->low)};
}

/* 64 codes; when the columns stood in order, every 128-bit lane now has four of each vector. Clipping from above before
 * rounding is the same, as bounds are whole; what is far below becomes the least integer, which packing keeps low and
 * the last line lifts.
 */
QC_INLINE __m512i qc_pack(const qc_limits *limits, const __m512 steps[4]) {
    __m512i whole[4];
    QC_EACH(v) whole[v] = _mm512_cvtps_epi32(_mm512_min_ps(steps[v], limits->most));
    __m512i first = _mm512_adds_epi16(_mm512_packs_epi32(whole[0], whole[1]), limits->zero_point);
    __m512i last = _mm512_adds_epi16(_mm512_packs_epi32(whole[2], whole[3]), limits->zero_point);
    return _mm512_max_epu8(_mm512_packus_epi16(first, last), limits->low);
}

/* How four vectors of 16 sums lie: `panels` (1, 2 or 4) of each of 4 / panels rows. */
typedef struct {
    size_t row, rows;   /* the first, and how many of the 4 / panels there are */
    size_t column;      /* the first, in the vectors of the epilogue */
    size_t count;       /* columns to store, up to 16 * panels */
    char *out;          /* the first result */
    size_t row_bytes;   /* from row to row of results */
} qc_block;

QC_INLINE void qc_store_words(const __m512i words[4], size_t panels, const qc_block *block) {
    QC_EACH(v) {
        size_t column = v % panels * 16, left = block->count > column ? block->count - column : 0;
        __mmask16 mask = (__mmask16)_bzhi_u32(0xffff, left < 16 ? (uint32_t)left : 16);
        if (v / panels < block->rows)
            _mm512_mask_storeu_epi32(block->out + v / panels * block->row_bytes + column * 4, mask, words[v]);
    }
}

/* Codes of a row lie side by side. */
QC_INLINE void qc_store_codes(__m512i codes, size_t panels, const qc_block *block) {
    const __mmask64 mask = _bzhi_u64(~0ull, block->count < 64 ? (uint32_t)block->count : 64);
    QC_UNROLL
    for (size_t r = 0; r < 4 / panels; ++r) {
        if (r >= block->rows) return;
        if (panels == 2 && r == 1) codes = _mm512_shuffle_i64x2(codes, codes, 0xee);
        if (panels == 1 && r > 0) codes = _mm512_alignr_epi64(codes, codes, 2);
        _mm512_mask_storeu_epi8(block->out + r * block->row_bytes, mask, codes);
    }
}

/* Finishes and stores one block; `sums` have the bias. With `lanes` the columns of sums and those of the vectors of the
 * epilogue stand in lanes; results are stored in order either way.
 */
QC_INLINE void qc_finish_block(const qc_epilogue *e, const qc_limits *limits, const __m512i sums[4], size_t panels,
                               bool lanes, const qc_block *block) {
    const bool biased = e->finish == QC_REALS_BIASED || e->finish == QC_CODES_BIASED;
    const size_t column = block->column, row = block->row;
    __m512i totals[4];
    __m512 reals[4];
    QC_EACH(v) totals[v] = sums[v];
    if (e->row_zero) {
        QC_EACH(v) {
            const size_t r = v / panels < block->rows ? row + v / panels : row;
            __m512i weights = _mm512_loadu_si512(e->column_sum + column + v % panels * 16);
            totals[v] = _mm512_sub_epi32(totals[v], _mm512_mullo_epi32(_mm512_set1_epi32(e->row_zero[r]), weights));
        }
    }
    if (e->finish == QC_INT32) {
        if (lanes) qc_in_order(totals);
        qc_store_words(totals, panels, block);
        return;
    }
    QC_EACH(v) reals[v] = _mm512_loadu_ps(e->factor + column + v % panels * 16);
    if (e->row_scale) {
        QC_EACH(v) {
            const size_t r = v / panels < block->rows ? row + v / panels : row;
            reals[v] = _mm512_mul_ps(_mm512_set1_ps(e->row_scale[r]), reals[v]);
        }
    }
    QC_EACH(v) reals[v] = _mm512_mul_ps(_mm512_cvtepi32_ps(totals[v]), reals[v]);
    if (biased) {
        QC_EACH(v) reals[v] = _mm512_add_ps(reals[v], _mm512_loadu_ps(e->float_bias + column + v % panels * 16));
    }
    if (e->finish == QC_REALS || e->finish == QC_REALS_BIASED) {
        QC_EACH(v) totals[v] = _mm512_castps_si512(reals[v]);
        if (lanes) qc_in_order(totals);
        qc_store_words(totals, panels, block);
        return;
    }
    if (biased) {
        QC_EACH(v) reals[v] = _mm512_div_ps(reals[v], _mm512_set1_ps(e->scale));
    }
    __m512i codes = qc_pack(limits, reals);
    if (!lanes)
        codes = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), codes);
    qc_store_codes(codes, panels, block);
}

#endif
