/* qc_gemv_wna8 with vpshufb: in each half of a register sixteen outputs look up the sums of four of their inputs.
 *
 * Inner loop, 32 outputs by 32 inputs of a plane: 12 loads, 12 operations that unpack places, 16 vpshufb, 12 sums of
 * bytes (four of 0 to 60, or of -32 to 28, fit a byte) and 18 that add these to 16 bits: 1024 MAC of one bit in 70
 * instructions. For one plane that is faster than products of unpacked codes without vpdpbusd, for more it is not.
 */
#include <immintrin.h>

#include "qc_gemv_wna8_rows.h"

QC_INLINE __m128i load(const void *at) { return _mm_loadu_si128(at); }
QC_INLINE __m256i load_wide(const void *at) { return _mm256_loadu_si256(at); }

/* Sums of eight neighbouring pairs x, y of inputs: 0, x, y and x + y of each. */
QC_INLINE void pair_sums(__m128i inputs, __m128i sums[2]) {
    const __m128i apart = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m128i x = _mm_shuffle_epi8(inputs, apart), y = _mm_unpackhi_epi64(x, x);
    const __m128i zero_x = _mm_unpacklo_epi8(_mm_setzero_si128(), x);
    const __m128i y_both = _mm_unpacklo_epi8(y, _mm_add_epi8(x, y));
    sums[0] = _mm_unpacklo_epi16(zero_x, y_both);
    sums[1] = _mm_unpackhi_epi16(zero_x, y_both);
}

/* The table of group `i` of two: the sums of its first pair four times, plus each sum of its second pair. */
QC_INLINE __m128i group_sums(__m128i pairs, int i) {
    const __m128i first = i ? _mm_shuffle_epi32(pairs, 0xaa) : _mm_shuffle_epi32(pairs, 0);
    const __m128i second = _mm_setr_epi8(4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    return _mm_add_epi8(first, _mm_shuffle_epi8(pairs, _mm_add_epi8(second, _mm_set1_epi8((char)(8 * i)))));
}

/* Tables of some groups, a multiple of four: two groups side by side of the low halves of their inputs, then of the
 * high ones.
 */
static void make_tables(const int8_t *input, size_t groups, uint8_t *to) {
    for (size_t j = 0; j < groups; j += 4, input += 16, to += 4 * QC_GEMV_TABLES) {
        const __m128i both = load(input), fifteen = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
        const __m128i upper = _mm_and_si128(_mm_srli_epi16(both, 4), fifteen);
        __m128i low[2], high[2];
        pair_sums(_mm_and_si128(both, fifteen), low);
        pair_sums(_mm_sub_epi8(_mm_xor_si128(upper, eight), eight), high);
        QC_UNROLL for (int g = 0; g < 4; ++g) {
            uint8_t *at = to + g / 2 * 2 * QC_GEMV_TABLES + g % 2 * 16;
            _mm_storeu_si128((void *)at, group_sums(low[g / 2], g % 2));
            _mm_storeu_si128((void *)(at + QC_GEMV_TABLES), group_sums(high[g / 2], g % 2));
        }
    }
}

/* Sums of a plane so far, of sixteen outputs: of low and of high halves, of outputs at even and at odd places; the two
 * halves of a register have other groups of the same outputs.
 */
typedef struct {
    __m256i low[2], high[2];
} half_sums;

/* Sixteen outputs of some pairs of groups, at most four. */
QC_INLINE void look_up(half_sums *sums, const __m256i *places, const uint8_t *table, int pairs) {
    __m256i low = _mm256_shuffle_epi8(load_wide(table), places[0]);
    __m256i high = _mm256_shuffle_epi8(load_wide(table + QC_GEMV_TABLES), places[0]);
    QC_UNROLL for (int p = 1; p < pairs; ++p) {
        const uint8_t *at = table + p * 2 * QC_GEMV_TABLES;
        low = _mm256_add_epi8(low, _mm256_shuffle_epi8(load_wide(at), places[p]));
        high = _mm256_add_epi8(high, _mm256_shuffle_epi8(load_wide(at + QC_GEMV_TABLES), places[p]));
    }
    sums->low[0] = _mm256_add_epi16(sums->low[0], _mm256_and_si256(low, _mm256_set1_epi16(255)));
    sums->low[1] = _mm256_add_epi16(sums->low[1], _mm256_srli_epi16(low, 8));
    sums->high[0] = _mm256_add_epi16(sums->high[0], _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8));
    sums->high[1] = _mm256_add_epi16(sums->high[1], _mm256_srai_epi16(high, 8));
}

QC_INLINE void some_groups(half_sums sums[2], const uint8_t *codes, const uint8_t *tables, int pairs) {
    const __m256i fifteen = _mm256_set1_epi8(15);
    __m256i both[4], places[4];
    QC_UNROLL for (int p = 0; p < pairs; ++p) both[p] = load_wide(codes + 32 * p);
    QC_UNROLL for (int p = 0; p < pairs; ++p) places[p] = _mm256_and_si256(both[p], fifteen);
    look_up(&sums[0], places, tables, pairs);
    QC_UNROLL for (int p = 0; p < pairs; ++p) places[p] = _mm256_and_si256(_mm256_srli_epi16(both[p], 4), fifteen);
    look_up(&sums[1], places, tables, pairs);
}

/* Both halves of a register, outputs in order. */
QC_INLINE void in_order(const __m256i sums[2], __m128i *to) {
    const __m128i even = _mm_add_epi16(_mm256_castsi256_si128(sums[0]), _mm256_extracti128_si256(sums[0], 1));
    const __m128i odd = _mm_add_epi16(_mm256_castsi256_si128(sums[1]), _mm256_extracti128_si256(sums[1], 1));
    to[0] = _mm_unpacklo_epi16(even, odd);
    to[1] = _mm_unpackhi_epi16(even, odd);
}

/* Adds `factor` times the sums of one plane over some groups to the totals of 32 outputs. */
QC_INLINE void add_plane(__m256i totals[4], const uint8_t *codes, const uint8_t *tables, size_t groups, int factor) {
    const __m128i factors = _mm_set1_epi32(factor | 16 * factor << 16); /* of a low and a high sum */
    half_sums sums[2];
    memset(sums, 0, sizeof sums);
    for (; groups >= 8; groups -= 8, codes += 128, tables += 8 * QC_GEMV_TABLES) some_groups(sums, codes, tables, 4);
    if (groups) some_groups(sums, codes, tables, 2);
    QC_UNROLL for (int half = 0; half < 2; ++half) {
        __m128i low[2], high[2];
        in_order(sums[half].low, low);
        in_order(sums[half].high, high);
        QC_UNROLL for (int i = 0; i < 2; ++i) {
            const __m128i first = _mm_madd_epi16(_mm_unpacklo_epi16(low[i], high[i]), factors);
            const __m128i second = _mm_madd_epi16(_mm_unpackhi_epi16(low[i], high[i]), factors);
            totals[2 * half + i] = _mm256_add_epi32(totals[2 * half + i], _mm256_set_m128i(second, first));
        }
    }
}

static void add_blocks(const stretch *s, size_t panel, float *results) {
    const qc_gemv_wna8_args *args = s->args;
    const qc_gemv_division *d = &s->division;
    const size_t planes = args->planes, first = panel * d->blocks * QC_GEMV_PANEL;
    const uint8_t *from = s->tables;
    const uint8_t *codes = args->weight + panel * qc_gemv_panel_bytes(args, d) + s->begin * d->full * planes * 16;
    for (size_t g = s->begin; g < s->end; ++g, from += d->full * QC_GEMV_TABLES) {
        const size_t groups = g + 1 < d->blocks ? d->full : d->last, at = first + g * QC_GEMV_PANEL;
        const __m256i given = _mm256_set1_epi32(-args->input_sum[s->row * d->blocks + g]);
        const __m256 factor = _mm256_set1_ps(args->input_scale[s->row * d->blocks + g]);
        __m256i totals[4];
        QC_UNROLL for (int i = 0; i < 4; ++i) {
            const __m256i zero = args->zero ? _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(args->zero + at + 8 * i)))
                                            : _mm256_set1_epi32(args->common_zero);
            totals[i] = _mm256_mullo_epi32(zero, given);
        }
        for (size_t i = 0; i < planes; ++i, codes += groups * 16)
            add_plane(totals, codes, from, groups, args->step << i);
        QC_UNROLL for (int i = 0; i < 4; ++i) {
            const __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(args->scale + at + 8 * i), factor);
            const __m256 before = _mm256_loadu_ps(results + 8 * i);
            _mm256_storeu_ps(results + 8 * i, _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[i]), scale, before));
        }
    }
}

void qc_gemv_wna8_avx2(const qc_gemv_wna8_args *args, size_t begin, size_t end) { by_rows(args, begin, end); }
