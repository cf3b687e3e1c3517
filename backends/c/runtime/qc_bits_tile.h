/* qc_gemm_bits as a product of signs: every plane of a row is a row, every plane of a column a column.
 *
 * With s = 1 - 2 * bit, what is summed over bits follows exactly from sums over signs. Of one row and column, with
 * B[j][i] the sums of signs that the level counts, T[j] the sum of signs of plane j of the row, G and F the sums of the
 * factors g of activations and f of weights:
 *   v = sum over j of g[j] * (sum over k of s(bit j of a) * w)
 *     = sum over j, i of g[j] * f[i] * B[j][i]                             weights of signs
 *     = (F * sum over j of g[j] * T[j] - the same) / 2                     weights of bits
 *   total = v                                                              activations of signs
 *         = (G * weight_sum - v) / 2                                       activations of bits
 */
#ifndef QC_BITS_TILE_H
#define QC_BITS_TILE_H

#include "qc_b1_tile.h"
#include "qc_gemm_bits.h"

/* The planes of as many rows as a tile has, in tiles, and
 *   total = (of_rows[r] + of_weights * weight_sum[n] + sum over i, j of factor[i][j] * B[j][i]) >> shift. */
typedef struct {
    uint64_t signs[QC_B1_TILE * (QC_B1_WORDS + QC_BITS_PLANES)];
    int32_t sums[QC_BITS_PLANES * QC_B1_TILE * QC_B1_SPAN];
    int32_t factor[QC_BITS_PLANES][QC_BITS_PLANES];
    int32_t of_row[QC_BITS_PLANES]; /* of the sum of signs of plane j */
    int32_t of_rows[QC_B1_TILE];
    int32_t of_weights;
    int shift;
} qc_bits_work;

static inline void qc_bits_prepare(const qc_gemm_bits_args *args, qc_bits_work *work) {
    const int32_t halves = args->weight_signs ? 1 : 2; /* v comes times this */
    const int32_t of_v = args->input_signs ? 1 : -1, of_sums = args->weight_signs ? of_v : -of_v;
    int32_t weights = 0, inputs = 0;
    for (size_t i = 0; i < args->weight_planes; ++i) weights += args->weight_factor[i];
    for (size_t j = 0; j < args->input_planes; ++j) {
        inputs += args->input_factor[j];
        work->of_row[j] = args->weight_signs ? 0 : of_v * weights * args->input_factor[j];
        for (size_t i = 0; i < args->weight_planes; ++i)
            work->factor[i][j] = of_sums * args->input_factor[j] * args->weight_factor[i];
    }
    work->of_weights = args->input_signs ? 0 : halves * inputs;
    work->shift = !args->weight_signs + !args->input_signs;
}

/* The sum of signs of a row as gathered. */
QC_B1_INLINE int32_t qc_bits_row_sum(const uint64_t *signs, size_t pairs, size_t tile, int32_t terms,
                                     const int chained) {
    int32_t ones = 0;
    for (size_t pair = 0; pair < pairs; ++pair, signs += 2 * tile)
        ones += qc_popcount(signs[0]) + qc_popcount(chained ? signs[1] ^ signs[0] : signs[1]);
    return terms - 2 * ones;
}

/* Sums of signs of row r of plane j and the 16 columns of plane i. */
static inline const int32_t *qc_bits_plane(const qc_bits_work *work, size_t tile, size_t r, size_t j, size_t i) {
    return work->sums + (j * tile + r) * QC_B1_SPAN + i * QC_BITS_GROUP;
}

static inline void qc_bits_totals(const qc_gemm_bits_args *args, const qc_bits_work *work, size_t tile, size_t r,
                                  size_t n, int32_t *restrict totals) {
    if (args->input_signs) {
        for (size_t c = 0; c < QC_BITS_GROUP; ++c) totals[c] = work->of_rows[r];
    } else {
        const int32_t *restrict weight_sum = args->weight_sum + n;
        for (size_t c = 0; c < QC_BITS_GROUP; ++c) totals[c] = work->of_rows[r] + work->of_weights * weight_sum[c];
    }
    for (size_t j = 0; j < args->input_planes; ++j)
        for (size_t i = 0; i < args->weight_planes; ++i) {
            const int32_t factor = work->factor[i][j];
            const int32_t *restrict sums = qc_bits_plane(work, tile, r, j, i);
            for (size_t c = 0; c < QC_BITS_GROUP; ++c) totals[c] += factor * sums[c];
        }
    const int shift = work->shift; /* exact: nothing is shifted out */
    for (size_t c = 0; shift && c < QC_BITS_GROUP; ++c) totals[c] >>= shift;
}

static inline void qc_bits_scaled(const qc_gemm_bits_args *args, const qc_bits_work *work, size_t tile, size_t r,
                                  size_t n, float *restrict reals) {
    const size_t wide = (args->columns + QC_BITS_GROUP - 1) / QC_BITS_GROUP * QC_BITS_GROUP;
    memset(reals, 0, QC_BITS_GROUP * sizeof *reals);
    for (size_t i = 0; i < args->weight_planes; ++i)
        for (size_t j = 0; j < args->input_planes; ++j) {
            const float *restrict scale = args->weight_scale + i * wide + n;
            const int32_t *restrict sums = qc_bits_plane(work, tile, r, j, i);
            const float factor = args->input_scale[j];
            for (size_t c = 0; c < QC_BITS_GROUP; ++c) reals[c] = fmaf((float)sums[c], scale[c] * factor, reals[c]);
        }
    for (size_t c = 0; args->epilogue.finish == QC_REALS_BIASED && c < QC_BITS_GROUP && n + c < args->columns; ++c)
        reals[c] += args->epilogue.float_bias[n + c];
}

/* Columns [n, n + count) of row m, which is row r of the tile. */
static inline void qc_bits_finish(const qc_gemm_bits_args *args, const qc_bits_work *work, size_t tile, size_t r,
                                  size_t m, size_t n, size_t count) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    char *out = (char *)args->out + (m * args->out_stride + n) * bytes;
    if (args->weight_scale) {
        float reals[QC_BITS_GROUP];
        qc_bits_scaled(args, work, tile, r, n, reals);
        memcpy(out, reals, count * sizeof *reals);
    } else {
        int32_t totals[QC_BITS_GROUP];
        qc_bits_totals(args, work, tile, r, n, totals);
        qc_b1_finish_numbers(&args->epilogue, m, n, totals, count, out);
    }
}

/* The planes of rows: signs of plane j at j * `stored`, and what their sums add to weights of bits. */
QC_B1_INLINE void qc_bits_gather(const qc_gemm_bits_args *args, const qc_b1_source *from,
                                 const uint8_t *const row[QC_B1_TILE], qc_b1_level level, size_t stored,
                                 qc_bits_work *work) {
    const int32_t terms = (int32_t)(args->taps * args->depth);
    const size_t tile = level.tile, pairs = stored / 2 / tile;
    memset(work->of_rows, 0, sizeof work->of_rows);
    for (size_t j = 0; j < args->input_planes; ++j)
        for (size_t r = 0; r < tile; ++r) {
            uint64_t *signs = work->signs + j * stored + 2 * r;
            qc_b1_gather_row(from, row[r] + j * args->plane_stride, signs, tile, level.chained);
            if (!args->weight_signs)
                work->of_rows[r] += work->of_row[j] * qc_bits_row_sum(signs, pairs, tile, terms, level.chained);
        }
}

QC_B1_INLINE void qc_bits_run(const qc_gemm_bits_args *args, size_t begin, size_t end, qc_b1_level level) {
    const qc_b1_source from = {args->input, args->width, args->inner_stride, args->outer_stride, args->offsets,
                               args->taps, args->depth};
    const size_t pairs = qc_b1_pairs(&from), stored = pairs * 2 * level.tile;
    const size_t panels = args->weight_planes * QC_BITS_GROUP / level.columns;
    const int32_t terms = (int32_t)(args->taps * args->depth);
    qc_bits_work work;
    qc_bits_prepare(args, &work);
    qc_b1_walk walk = qc_b1_walk_from(&from, begin);
    for (size_t m = begin; m < end; m += level.tile) {
        const size_t rows = end - m < level.tile ? end - m : level.tile;
        const uint8_t *row[QC_B1_TILE];
        qc_b1_next_rows(&from, &walk, rows, row);
        qc_bits_gather(args, &from, row, level, stored, &work);
        for (size_t n = 0; n < args->columns; n += QC_BITS_GROUP) {
            const size_t count = args->columns - n < QC_BITS_GROUP ? args->columns - n : QC_BITS_GROUP;
            const uint8_t *weight = args->weight + n * args->weight_planes * pairs * 16;
            for (size_t j = 0; j < args->input_planes; ++j)
                level.count(work.signs + j * stored, rows, weight, panels, pairs, terms,
                            work.sums + j * level.tile * QC_B1_SPAN);
            for (size_t r = 0; r < rows; ++r) qc_bits_finish(args, &work, level.tile, r, m + r, n, count);
        }
    }
}

#endif
