/* What the x86 versions of qc_gemm_i8 share: where rows start, how sums become results, what stays in the cache. */
#ifndef QC_GEMM_I8_X86_H
#define QC_GEMM_I8_X86_H

#include "qc_finish_x86.h"
#include "qc_gemm_i8.h"

/* Columns of a panel of weights, inputs of a run of them. */
enum { PANEL = 16, RUN = 4 };

/* Where rows m, m + 1, ... start: one division for all of them. */
QC_INLINE void row_starts(const qc_gemm_i8_args *args, size_t m, size_t rows, const qc_act *starts[]) {
    size_t x = m % args->width;
    const qc_act *line = args->input + m / args->width * args->outer_stride;
    const qc_act *at = line + x * args->inner_stride;
    QC_UNROLL
    for (size_t r = 0; r < rows; ++r) {
        starts[r] = at;
        at += args->inner_stride;
        if (++x == args->width) x = 0, line += args->outer_stride, at = line;
    }
}

/* Bytes of a panel of weights. */
QC_INLINE size_t panel_bytes(const qc_gemm_i8_args *args) {
    return args->taps * ((args->depth + RUN - 1) / RUN) * PANEL * RUN;
}

/* Finishes and stores rows [m, m + rows) of `across` vectors of columns from n on. */
QC_INLINE void finish(const qc_gemm_i8_args *args, size_t m, size_t n, size_t rows, size_t across,
                      const qc_ints *sums) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish), left = args->columns - n, most = QC_LANES * across;
    const qc_limits limits = qc_limits_of(&args->epilogue);
    qc_block block = {m, rows, n, left < most ? left : most, NULL, args->out_stride * bytes};
    block.out = (char *)args->out + m * block.row_bytes + n * bytes;
    for (; block.rows > 0; sums += 4) {
        const size_t done = block.rows < 4 / across ? block.rows : 4 / across;
        qc_finish_block(&args->epilogue, &limits, sums, across, false, &block);
        block.row += done, block.rows -= done, block.out += done * block.row_bytes;
    }
}

/* Rows of activations that stay in the second cache while all weights pass by. */
QC_INLINE size_t cached_rows(const qc_gemm_i8_args *args) {
    const size_t bytes = args->taps > 1 ? args->inner_stride : args->depth, least = 48;
    const size_t rows = 384 * 1024 / (bytes ? bytes : 1);
    return rows < least ? least : rows;
}

#endif
