/* What the fast versions of qc_gemm_b1 and qc_gemm_bits share: rows of signs side by side, and what becomes of sums. */
#ifndef QC_B1_TILE_H
#define QC_B1_TILE_H

#include "qc_bits.h"
#include "qc_gemm_b1.h"

#define QC_B1_SPAN 64 /* columns that are finished together: one word of signs */
#define QC_B1_TILE 8  /* most rows that any level takes at once */
#define QC_B1_INLINE static inline __attribute__((always_inline))

/* Where rows of signs come from, as the arguments say. */
typedef struct {
    const uint8_t *input;
    size_t width, inner_stride, outer_stride;
    const int32_t *offsets;
    size_t taps, depth;
} qc_b1_source;

/* What a level brings: `rows` rows of signs, [pairs of words][tile][2], against panels of weights; sums of signs,
 * `terms - 2 * count of those that differ`, go to rows of QC_B1_SPAN. `terms` is all signs of a row. */
typedef void qc_b1_count(const uint64_t *signs, size_t rows, const uint8_t *weight, size_t panels, size_t pairs,
                         int32_t terms, int32_t *sums);

typedef struct {
    size_t tile;    /* rows that it takes at once */
    size_t columns; /* of a panel */
    int chained;
    qc_b1_count *count;
} qc_b1_level;

static inline size_t qc_b1_pairs(const qc_b1_source *from) {
    return (from->taps * qc_bit_words(from->depth) + 1) / 2;
}

/* A walk through rows. */
typedef struct {
    const uint8_t *line, *row;
    size_t column;
} qc_b1_walk;

static inline qc_b1_walk qc_b1_walk_from(const qc_b1_source *from, size_t m) {
    const uint8_t *line = from->input + m / from->width * from->outer_stride;
    return (qc_b1_walk){line, line + m % from->width * from->inner_stride, m % from->width};
}

/* The next `rows` rows, as many pointers as there are in a tile: those behind are the last one again. */
static inline void qc_b1_next_rows(const qc_b1_source *from, qc_b1_walk *walk, size_t rows,
                                   const uint8_t *found[QC_B1_TILE]) {
    for (size_t r = 0; r < QC_B1_TILE; ++r) {
        found[r] = r < rows ? walk->row : found[rows - 1];
        if (r >= rows) continue;
        walk->row += from->inner_stride;
        if (++walk->column < from->width) continue;
        walk->line += from->outer_stride;
        walk->row = walk->line;
        walk->column = 0;
    }
}

/* Writes a row as every `tile`-th pair of words, a single last one followed by zero; chained, the second of a pair is
 * its exclusive or with the first. */
QC_B1_INLINE void qc_b1_gather_row(const qc_b1_source *from, const uint8_t *input, uint64_t *to, size_t tile,
                                   const int chained) {
    const size_t words = qc_bit_words(from->depth);
    size_t in_pair = 0;
    for (size_t t = 0; t < from->taps; ++t) {
        const uint8_t *row = input + (from->offsets ? from->offsets[t] : 0), *end = row + words * 8;
        for (; in_pair == 0 && row + 8 < end; row += 16, to += 2 * tile) {
            memcpy(to, row, 16);
            if (chained) to[1] ^= to[0];
        }
        for (; row < end; row += 8, in_pair ^= 1) {
            to[in_pair] = chained && in_pair ? qc_bit_word(row) ^ to[0] : qc_bit_word(row);
            to += in_pair * 2 * tile;
        }
    }
    if (in_pair) to[1] = chained ? to[0] : 0;
}

/* The word of signs of sum < threshold. What lies behind the last column may be anything. */
typedef uint64_t qc_b1_signs(const int32_t *sums, const int32_t *threshold);

/* The difference stays within int32: its highest bit is the sign. */
static inline uint32_t qc_b1_half_of_signs(const int32_t *restrict sums, const int32_t *restrict threshold) {
    uint32_t bits = 0;
    for (size_t j = 0; j < 32; ++j) bits |= ((uint32_t)sums[j] - (uint32_t)threshold[j]) >> 31 << j;
    return bits;
}

static inline uint64_t qc_b1_plain_signs(const int32_t *sums, const int32_t *threshold) {
    return qc_b1_half_of_signs(sums, threshold) | (uint64_t)qc_b1_half_of_signs(sums + 32, threshold + 32) << 32;
}

static inline void qc_b1_finish_signs(const qc_gemm_b1_args *args, size_t m, size_t n, uint64_t bits) {
    const size_t left = args->columns - n;
    if (left < QC_B1_SPAN) bits &= ((uint64_t)1 << left) - 1;
    bits ^= qc_bit_word(args->flip + n / 8);
    memcpy((uint8_t *)args->out + m * args->out_stride + n / 8, &bits, sizeof bits);
}

static inline void qc_b1_finish_reals(const qc_epilogue *e, size_t m, size_t n, const int32_t *restrict sums,
                                      size_t count, float *restrict out) {
    const int32_t *restrict bias = e->bias + n;
    const float *restrict factor = e->factor + n;
    if (e->row_scale) {
        const float row_scale = e->row_scale[m];
        for (size_t j = 0; j < count; ++j) out[j] = (float)(sums[j] + bias[j]) * (row_scale * factor[j]);
    } else {
        for (size_t j = 0; j < count; ++j) out[j] = (float)(sums[j] + bias[j]) * factor[j];
    }
    if (e->finish == QC_REALS_BIASED || e->finish == QC_CODES_BIASED) {
        const float *restrict float_bias = e->float_bias + n;
        for (size_t j = 0; j < count; ++j) out[j] += float_bias[j];
    }
}

static inline void qc_b1_finish_codes(const qc_epilogue *e, const float *restrict reals, size_t count,
                                      qc_act *restrict out) {
    const float zero_point = e->zero_point, low = e->low, high = e->high;
    const float scale = e->finish == QC_CODES_BIASED ? e->scale : 1.0f; /* by 1 changes nothing */
    for (size_t j = 0; j < count; ++j) out[j] = (qc_act)qc_place(reals[j] / scale, zero_point, low, high);
}

/* The epilogue of columns from n of row m: qc_finish_one in loops that are vectorized. */
static inline void qc_b1_finish_numbers(const qc_epilogue *e, size_t m, size_t n, int32_t *restrict sums, size_t count,
                                        void *out) {
    if (e->row_zero) {
        const int32_t *restrict column_sum = e->column_sum + n;
        const int32_t zero = e->row_zero[m];
        for (size_t j = 0; j < count; ++j) sums[j] -= zero * column_sum[j];
    }
    if (e->finish == QC_INT32) {
        const int32_t *restrict bias = e->bias + n;
        int32_t *restrict totals = out;
        for (size_t j = 0; j < count; ++j) totals[j] = sums[j] + bias[j];
    } else if (e->finish == QC_REALS || e->finish == QC_REALS_BIASED) {
        qc_b1_finish_reals(e, m, n, sums, count, out);
    } else {
        float reals[QC_B1_SPAN];
        qc_b1_finish_reals(e, m, n, sums, count, reals);
        qc_b1_finish_codes(e, reals, count, out);
    }
}

QC_B1_INLINE void qc_b1_finish_span(const qc_gemm_b1_args *args, size_t m, size_t n, int32_t *restrict sums,
                                    size_t count, qc_b1_signs *signs) {
    if (args->pattern) {
        const int32_t *restrict correction = args->correction + args->pattern[m] * args->columns + n;
        for (size_t j = 0; j < count; ++j) sums[j] -= correction[j];
    }
    if (args->threshold) {
        qc_b1_finish_signs(args, m, n, signs(sums, args->threshold + n));
        return;
    }
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    qc_b1_finish_numbers(&args->epilogue, m, n, sums, count, (char *)args->out + (m * args->out_stride + n) * bytes);
}

/* From sums of signs, which are overwritten, to the result, for QC_B1_SPAN columns from n of row m or those left. */
QC_B1_INLINE void qc_b1_finish(const qc_gemm_b1_args *args, size_t m, size_t n, int32_t *sums, qc_b1_signs *signs) {
    if (args->columns - n >= QC_B1_SPAN)
        qc_b1_finish_span(args, m, n, sums, QC_B1_SPAN, signs); /* known lengths make shorter loops */
    else
        qc_b1_finish_span(args, m, n, sums, args->columns - n, signs);
}

QC_B1_INLINE void qc_b1_run(const qc_gemm_b1_args *args, size_t begin, size_t end, qc_b1_level level,
                            qc_b1_signs *signs_of) {
    const qc_b1_source from = {args->input, args->width, args->inner_stride, args->outer_stride, args->offsets,
                               args->taps, args->depth};
    const size_t pairs = qc_b1_pairs(&from);
    const int32_t terms = (int32_t)(args->taps * args->depth);
    uint64_t signs[QC_B1_TILE * QC_B1_WORDS];
    int32_t sums[QC_B1_TILE * QC_B1_SPAN] = {0};
    qc_b1_walk walk = qc_b1_walk_from(&from, begin);
    for (size_t m = begin; m < end; m += level.tile) {
        const size_t rows = end - m < level.tile ? end - m : level.tile;
        const uint8_t *row[QC_B1_TILE];
        qc_b1_next_rows(&from, &walk, rows, row);
        for (size_t r = 0; r < level.tile; ++r)
            qc_b1_gather_row(&from, row[r], signs + 2 * r, level.tile, level.chained);
        for (size_t n = 0; n < args->columns; n += QC_B1_SPAN) {
            const size_t left = args->columns - n < QC_B1_SPAN ? args->columns - n : QC_B1_SPAN;
            const size_t panels = (left + level.columns - 1) / level.columns;
            level.count(signs, rows, args->weight + n * pairs * 16, panels, pairs, terms, sums);
            for (size_t r = 0; r < rows; ++r) qc_b1_finish(args, m + r, n, sums + r * QC_B1_SPAN, signs_of);
        }
    }
}

#endif
