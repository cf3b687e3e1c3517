/* qc_gemm_i8 with tdpbusd: 16 x 16 x 64 multiply-accumulates an instruction of 16 cycles.
 *
 * A block of 2 x 2 tiles of sums (32 rows, 32 columns) takes two tiles of activations and two of weights for four
 * products. A tile of weights is 16 runs of a panel as they lie in memory. Rows of a tile of activations must be evenly
 * spaced; where a tile spans lines of the image they are first copied together.
 */
#include "qc_gemm_i8_vnni.h"
#include "qc_tiles_x86.h"

/* Rows of activations that one tile holds. */
typedef struct {
    size_t rows;
    size_t stride;                      /* bytes from row to row, when they are evenly spaced */
    bool even;
    const qc_act *starts[TILE_ROWS];
} input_rows;

typedef struct {
    _Alignas(64) uint8_t inputs[2][TILE_ROWS][TILE_BYTES]; /* rows that were copied together */
    _Alignas(64) int8_t weights[2][TILE_RUNS][TILE_BYTES]; /* the last runs of a tap, zeros behind them */
    _Alignas(64) int32_t sums[2 * TILE_ROWS][2 * PANEL];
    input_rows rows[2];
} workspace;

static void find_rows(const qc_gemm_i8_args *args, size_t m, size_t rows, input_rows *found) {
    found->rows = rows, found->stride = args->inner_stride, found->even = true;
    if (!rows) return;
    row_starts(args, m, rows, found->starts);
    for (size_t r = 1; r < rows; ++r) found->even &= found->starts[r] == found->starts[0] + r * args->inner_stride;
}

/* Where 64 inputs from offset k on of all rows lie, a tile's way. */
QC_INLINE const void *gathered(const input_rows *from, ptrdiff_t k, uint8_t to[TILE_ROWS][TILE_BYTES]) {
    if (from->even) return from->starts[0] + k;
    for (size_t r = 0; r < from->rows; ++r)
        _mm512_store_si512(to[r], _mm512_loadu_si512(from->starts[r] + k));
    return to;
}

/* 16 runs of a panel, of which only `runs` belong to this tap. */
QC_INLINE const void *whole_runs(const int8_t *weight, size_t runs, int8_t to[TILE_RUNS][TILE_BYTES]) {
    if (runs >= TILE_RUNS) return weight;
    for (size_t run = 0; run < TILE_RUNS; ++run) {
        const __mmask64 taken = run < runs ? ~0ull : 0;
        _mm512_store_si512(to[run], _mm512_maskz_loadu_epi8(taken, weight + run * TILE_BYTES));
    }
    return to;
}

/* One step over 64 inputs: up to four products. */
QC_INLINE void tile_step(workspace *space, ptrdiff_t k, const int8_t *weight, size_t panel, size_t runs,
                         bool second_rows, bool second_panel) {
    const size_t stride[2] = {space->rows[0].even ? space->rows[0].stride : TILE_BYTES,
                              space->rows[1].even ? space->rows[1].stride : TILE_BYTES};
    const void *inputs = gathered(&space->rows[0], k, space->inputs[0]);
    const void *more_inputs = second_rows ? gathered(&space->rows[1], k, space->inputs[1]) : NULL;
    const void *weights = whole_runs(weight, runs, space->weights[0]);
    const void *more_weights = second_panel ? whole_runs(weight + panel, runs, space->weights[1]) : NULL;
    QC_MEMORY_CHANGES(space);
    _tile_loadd(4, inputs, stride[0]);
    _tile_loadd(6, weights, TILE_BYTES);
    _tile_dpbusd(0, 4, 6);
    if (second_panel) {
        _tile_loadd(7, more_weights, TILE_BYTES);
        _tile_dpbusd(1, 4, 7);
    }
    if (second_rows) {
        _tile_loadd(5, more_inputs, stride[1]);
        _tile_dpbusd(2, 5, 6);
        if (second_panel) _tile_dpbusd(3, 5, 7);
    }
}

/* Sums of a block, bias included, to the workspace. */
QC_INLINE void tile_block(const qc_gemm_i8_args *args, size_t n, workspace *space, bool second_rows,
                          bool second_panel) {
    const size_t runs = (args->depth + RUN - 1) / RUN, panel = panel_bytes(args);
    const int8_t *weight = args->weight + n / PANEL * panel;
    const int32_t *bias = args->epilogue.bias + n;
    /* Every row of sums begins as the same row of the bias. */
    _tile_loadd(0, bias, 0);
    _tile_loadd(1, bias + PANEL, 0);
    _tile_loadd(2, bias, 0);
    _tile_loadd(3, bias + PANEL, 0);
    for (size_t t = 0; t < args->taps; ++t) {
        ptrdiff_t k = args->offsets ? args->offsets[t] : 0;
        for (size_t run = 0; run < runs; run += TILE_RUNS, k += TILE_BYTES)
            tile_step(space, k, weight + run * TILE_BYTES, panel, runs - run, second_rows, second_panel);
        weight += runs * TILE_BYTES;
    }
    _tile_stored(0, space->sums[0], sizeof space->sums[0]);
    _tile_stored(1, space->sums[0] + PANEL, sizeof space->sums[0]);
    _tile_stored(2, space->sums[TILE_ROWS], sizeof space->sums[0]);
    _tile_stored(3, space->sums[TILE_ROWS] + PANEL, sizeof space->sums[0]);
    QC_MEMORY_CHANGES(space);
}

/* Rows [begin, end) of 32 columns from n on. */
static void by_blocks(const qc_gemm_i8_args *args, size_t begin, size_t end, size_t n, workspace *space) {
    const bool second_panel = n + PANEL < args->columns;
    size_t shaped[2] = {0, 0};
    for (size_t m = begin; m < end; m += 2 * TILE_ROWS) {
        const size_t left = end - m, first = left < TILE_ROWS ? left : TILE_ROWS;
        const size_t second = left - first < TILE_ROWS ? left - first : TILE_ROWS;
        find_rows(args, m, first, &space->rows[0]);
        find_rows(args, m + first, second, &space->rows[1]);
        if (shaped[0] != first || shaped[1] != second) set_tile_shapes(first, second, TILE_RUNS);
        shaped[0] = first, shaped[1] = second;
        if (second && second_panel)
            tile_block(args, n, space, true, true);
        else
            tile_block(args, n, space, second, second_panel);
        finish(args, m, n, first + second, 2, (const __m512i *)space->sums);
    }
}

void qc_gemm_i8_amx(const qc_gemm_i8_args *args, size_t begin, size_t end) {
    const size_t block = cached_rows(args);
    workspace space;
    if (begin < end && end - begin <= STREAMED_ROWS) {
        by_stream(args, begin, end - begin);
        return;
    }
    memset(space.sums, 0, sizeof space.sums);
    for (size_t m = begin; m < end; m += block) {
        const size_t last = end - m < block ? end : m + block;
        for (size_t n = 0; n < args->columns; n += 2 * PANEL) by_blocks(args, m, last, n, &space);
    }
    _tile_release();
}
