/* What the ARM versions of qc_gemm_i8 share: panels of eight columns, where rows lie, and the order of tiles. */
#ifndef QC_GEMM_I8_ARM_H
#define QC_GEMM_I8_ARM_H

#include "qc_finish_neon.h"
#include "qc_gemm_i8.h"
#include "qc_order_neon.h"

#define QC_PANEL 8 /* columns */
/* Rows whose activations stay in the second cache while the panels, each in the first, pass by. */
#define QC_ROW_BLOCK 32

QC_INLINE void qc_row_bases(const qc_gemm_i8_args *args, size_t begin, size_t end, const int8_t *bases[]) {
    qc_pixel_bases(args->input, args->width, args->inner_stride, args->outer_stride, begin, end, bases);
}

QC_INLINE ptrdiff_t qc_tap(const qc_gemm_i8_args *args, size_t t) { return args->offsets ? args->offsets[t] : 0; }

/* Sums of some rows that start at `bases`, for one panel. */
typedef void qc_tile(
    const qc_gemm_i8_args *args, const int8_t *const bases[], const int8_t *panel, int32_t sums[][QC_PANEL]);

/* Writes what becomes of the sums of rows [m, m + rows) of the panel that starts at column n. */
QC_INLINE void qc_finish_panel(
    const qc_gemm_i8_args *args, const int32_t sums[][QC_PANEL], size_t rows, size_t m, size_t n) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish);
    char *out = (char *)args->out + (m * args->out_stride + n) * bytes;
    qc_finish_tile(&args->epilogue, sums, rows, m, n, qc_smaller(args->columns - n, QC_PANEL), out, args->out_stride);
}

/* All tiles of rows [begin, end): tiles[i] does 8 >> i rows, those that are NULL do not exist. */
QC_INLINE void qc_tiles(const qc_gemm_i8_args *args, size_t begin, size_t end, size_t run, qc_tile *const tiles[4]) {
    const size_t panel = args->taps * ((args->depth + run - 1) / run) * run * QC_PANEL;
    for (size_t block = begin; block < end; block += QC_ROW_BLOCK) {
        const size_t last = qc_smaller(end, block + QC_ROW_BLOCK);
        const int8_t *weight = args->weight, *bases[QC_ROW_BLOCK];
        qc_row_bases(args, block, last, bases);
        for (size_t n = 0; n < args->columns; n += QC_PANEL, weight += panel) {
            size_t m = block;
            for (size_t i = 0; i < 4; ++i) {
                const size_t rows = (size_t)8 >> i;
                for (; tiles[i] && m + rows <= last; m += rows) {
                    int32_t sums[8][QC_PANEL];
                    tiles[i](args, bases + (m - block), weight, sums);
                    qc_finish_panel(args, (const int32_t(*)[QC_PANEL])sums, rows, m, n);
                }
            }
        }
    }
}

#endif
