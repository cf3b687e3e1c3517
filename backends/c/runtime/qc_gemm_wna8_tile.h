/* What the fast versions of qc_gemm_wna8 share: tiles of rows by panels, block by block.
 *
 * A version defines the name of its function, QC_KERNEL, and
 *   QC_COLUMNS, QC_LANES     outputs of a panel and int32 of a vector; V = QC_COLUMNS / QC_LANES vectors make a panel
 *   QC_ROWS, QC_MANY_PANELS  rows of the large tile and panels beside each other in it
 *   QC_PANELS                panels beside each other for a single row
 *   ints, reals              vector types
 *   QC_SUMS(bits, rows)      sums that a tile keeps for each vector of results (more than one shortens dependences)
 *   set_sums, fold           make them mean one number, and the number that they mean
 *   QC_OFFSET(bits)          what `chunk` subtracts from codes of weights, where the product takes signed ones only
 *   chunk(...)               adds the products of one chunk to all sums of a tile
 *   and the small operations on vectors that are used below.
 */
#ifndef QC_GEMM_WNA8_TILE_H
#define QC_GEMM_WNA8_TILE_H

#include "qc_gemm_wna8.h"

#define QC_VECTORS (QC_COLUMNS / QC_LANES)

/* What sums start from: -zero * input_sum, where zero points are equal; else finish_block subtracts it. */
QC_INLINE void start_block(const qc_gemm_wna8_args *args, const qc_division *d, ints *sums, size_t row, size_t g, int rows,
                           int panels, unsigned bits) {
    const int each = QC_SUMS(bits, rows), count = panels * QC_VECTORS;
    int32_t start[QC_ROWS];
    for (int r = 0; r < rows; ++r)
        start[r] = (QC_OFFSET(bits) - args->common_zero) * args->input_sum[(row + (size_t)r) * d->blocks + g];
    QC_UNROLL for (int r = 0; r < rows; ++r) {
        QC_UNROLL for (int i = 0; i < count; ++i) set_sums(sums + (r * count + i) * each, args->zero ? 0 : start[r], each);
    }
}

/* Adds the sums of one block, times both scales. */
QC_INLINE void finish_block(const qc_gemm_wna8_args *args, const qc_division *d, const ints *sums, reals *acc, size_t row,
                            size_t panel, size_t g, int rows, int panels, unsigned bits) {
    const int count = QC_SUMS(bits, rows);
    QC_UNROLL for (int p = 0; p < panels; ++p) {
        const size_t at = ((panel + (size_t)p) * d->blocks + g) * QC_COLUMNS;
        QC_UNROLL for (int v = 0; v < QC_VECTORS; ++v) {
            const reals scale = load_reals(args->scale + at + v * QC_LANES);
            QC_UNROLL for (int r = 0; r < rows; ++r) {
                const int tile = (r * panels + p) * QC_VECTORS + v;
                const size_t block = (row + (size_t)r) * d->blocks + g;
                ints sum = fold(sums + tile * count, bits, rows);
                if (args->zero) {
                    const ints zero = plus(load_bytes(args->zero + at + v * QC_LANES), all_ints(-QC_OFFSET(bits)));
                    sum = minus_product(sum, zero, all_ints(args->input_sum[block]));
                }
                acc[tile] = fused(to_reals(sum), times(all_reals(args->input_scale[block]), scale), acc[tile]);
            }
        }
    }
}

QC_INLINE void store_tile(const qc_gemm_wna8_args *args, const reals *acc, size_t row, size_t panel, int rows,
                          int panels) {
    const size_t first = panel * QC_COLUMNS, wide = (size_t)panels * QC_COLUMNS;
    for (int r = 0; r < rows; ++r) {
        float *out = args->out + (row + (size_t)r) * args->out_stride + first;
        const reals *from = acc + r * panels * QC_VECTORS;
        if (first + wide <= args->columns) {
            for (int v = 0; v < panels * QC_VECTORS; ++v) store_reals(out + v * QC_LANES, from[v]);
        } else {
            memcpy(out, from, (args->columns - first) * sizeof(float));
        }
    }
}

/* The biases of a tile, which may end within its last panel. */
QC_INLINE void start_tile(const qc_gemm_wna8_args *args, reals *acc, size_t panel, int rows, int panels) {
    const size_t first = panel * QC_COLUMNS, wide = (size_t)panels * QC_COLUMNS;
    const size_t count = args->columns - first < wide ? args->columns - first : wide;
    const size_t row_bytes = wide * sizeof(float);
    memset(acc, 0, row_bytes);
    if (args->bias) memcpy(acc, args->bias + first, count * sizeof(float));
    for (int r = 1; r < rows; ++r) memcpy(acc + r * panels * QC_VECTORS, acc, row_bytes);
}

QC_INLINE void tile(const qc_gemm_wna8_args *args, const qc_division *d, size_t row, size_t panel, int rows, int panels,
                    unsigned bits) {
    reals acc[QC_ROWS * QC_MANY_PANELS * QC_VECTORS > QC_PANELS * QC_VECTORS
                  ? QC_ROWS * QC_MANY_PANELS * QC_VECTORS
                  : QC_PANELS * QC_VECTORS];
    const size_t panel_bytes = qc_panel_bytes(d);
    const uint8_t *weight = args->weight + panel * panel_bytes;
    start_tile(args, acc, panel, rows, panels);
    for (size_t g = 0; g < d->blocks; ++g) {
        const int8_t *input = args->input + row * args->input_stride + g * args->block;
        const size_t chunks = g + 1 < d->blocks ? d->full : d->last;
        ints sums[QC_MOST_SUMS];
        start_block(args, d, sums, row, g, rows, panels, bits);
        for (size_t c = 0; c < chunks; ++c) {
            chunk(sums, weight, panel_bytes, input, args->input_stride, rows, panels, bits);
            weight += d->bytes;
            input += d->chunk;
        }
        finish_block(args, d, sums, acc, row, panel, g, rows, panels, bits);
    }
    store_tile(args, acc, row, panel, rows, panels);
}

/* All rows of `panels` panels. */
QC_INLINE void strip(const qc_gemm_wna8_args *args, const qc_division *d, size_t panel, int panels, unsigned bits) {
    size_t row = 0;
    for (; row + QC_ROWS <= args->rows; row += QC_ROWS) tile(args, d, row, panel, QC_ROWS, panels, bits);
    for (; row + QC_FEW_ROWS <= args->rows; row += QC_FEW_ROWS) tile(args, d, row, panel, QC_FEW_ROWS, panels, bits);
    for (; row < args->rows; ++row) tile(args, d, row, panel, 1, panels, bits);
}

QC_INLINE void panels_of_bits(const qc_gemm_wna8_args *args, size_t begin, size_t end, unsigned bits) {
    const qc_division d = qc_divide(args->depth, args->block, bits, QC_COLUMNS, QC_DEPTH);
    size_t panel = begin;
    if (args->rows < QC_FEW_ROWS) {
        for (; panel + QC_PANELS <= end; panel += QC_PANELS)
            for (size_t row = 0; row < args->rows; ++row) tile(args, &d, row, panel, 1, QC_PANELS, bits);
        for (; panel < end; ++panel)
            for (size_t row = 0; row < args->rows; ++row) tile(args, &d, row, panel, 1, 1, bits);
        return;
    }
    for (; panel + QC_MANY_PANELS <= end; panel += QC_MANY_PANELS) strip(args, &d, panel, QC_MANY_PANELS, bits);
    for (; panel < end; ++panel) strip(args, &d, panel, 1, bits);
}

void QC_KERNEL(const qc_gemm_wna8_args *args, size_t begin, size_t end) {
    switch (args->bits) {
    case 2:
        panels_of_bits(args, begin, end, 2);
        break;
    case 3:
        panels_of_bits(args, begin, end, 3);
        break;
    case 4:
        panels_of_bits(args, begin, end, 4);
        break;
    default:
        panels_of_bits(args, begin, end, 8);
    }
}

#endif
