/* qc_gemm_i8 without products of bytes that are exact: bytes become words, which vpmaddwd multiplies.
 *
 * A tile of four rows and a panel of 16 columns (two vectors) keeps eight sums in registers. A step over four inputs of
 * a panel splits weights into even and odd bytes once for all rows: 256 multiply-accumulates from 16 vpmaddwd, 16
 * additions and 14 splits.
 */
#include "qc_gemm_i8_x86.h"

enum { ROWS = 4, AHEAD = 1024 };

typedef struct {
    __m256i even, odd;
} words;

/* Signed bytes of 16-bit lanes. */
QC_INLINE words split_weights(const int8_t *at) {
    const __m256i bytes = qc_load_ints(at);
    return (words){_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
}

QC_INLINE words split_activations(const qc_act *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    const __m256i bytes = _mm256_set1_epi32(four);
    return (words){_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
}

QC_INLINE __m256i add_products(__m256i sum, words inputs, words weights) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(inputs.even, weights.even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(inputs.odd, weights.odd));
}

/* Sums of rows [m, m + rows) and a panel, bias included, as [rows][2]. */
QC_INLINE void tile(const qc_gemm_i8_args *args, size_t m, size_t n, __m256i *result, const size_t rows) {
    const size_t runs = (args->depth + RUN - 1) / RUN;
    const int8_t *weight = args->weight + n / PANEL * panel_bytes(args);
    const qc_act *starts[ROWS];
    __m256i sums[ROWS][2];
    row_starts(args, m, rows, starts);
    QC_UNROLL
    for (size_t r = 0; r < rows; ++r) {
        sums[r][0] = qc_load_ints(args->epilogue.bias + n);
        sums[r][1] = qc_load_ints(args->epilogue.bias + n + 8);
    }
    for (size_t t = 0; t < args->taps; ++t) {
        ptrdiff_t k = args->offsets ? args->offsets[t] : 0;
        for (size_t run = 0; run < runs; ++run, k += RUN, weight += PANEL * RUN) {
            if (rows == 1) _mm_prefetch((const char *)weight + AHEAD, _MM_HINT_T0);
            const words left = split_weights(weight), right = split_weights(weight + 32);
            QC_UNROLL
            for (size_t r = 0; r < rows; ++r) {
                const words inputs = split_activations(starts[r] + k);
                sums[r][0] = add_products(sums[r][0], inputs, left);
                sums[r][1] = add_products(sums[r][1], inputs, right);
            }
        }
    }
    QC_UNROLL
    for (size_t r = 0; r < rows; ++r) result[2 * r] = sums[r][0], result[2 * r + 1] = sums[r][1];
}

#define TILE(rows)                                                                                 \
    static void tile_##rows(const qc_gemm_i8_args *args, size_t m, size_t n, __m256i *sums) {      \
        tile(args, m, n, sums, rows);                                                              \
    }
TILE(1) TILE(2) TILE(3) TILE(4)

static void (*const TILES[ROWS])(const qc_gemm_i8_args *, size_t, size_t, __m256i *) = {tile_1, tile_2, tile_3, tile_4};

void qc_gemm_i8_avx2(const qc_gemm_i8_args *args, size_t begin, size_t end) {
    const size_t block = cached_rows(args);
    __m256i sums[2 * ROWS] = {_mm256_setzero_si256()};
    for (size_t from = begin; from < end; from += block) {
        const size_t last = end - from < block ? end : from + block;
        for (size_t n = 0; n < args->columns; n += PANEL) {
            for (size_t m = from; m < last; m += ROWS) {
                const size_t rows = last - m < ROWS ? last - m : ROWS;
                TILES[rows - 1](args, m, n, sums);
                finish(args, m, n, rows, 2, sums);
            }
        }
    }
}
