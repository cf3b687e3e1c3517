/* qc_gemm_wna8 with tdpbsud: 16 x 16 x 64 multiply-accumulates an instruction of 16 cycles.
 *
 * Codes of some blocks of two panels are unpacked once for all rows: sixteen runs of bytes as they lie are a tile.
 * Activations are tiles as they lie in memory. Sums of one block of 2 x 2 tiles (32 rows, 32 outputs) are stored, and
 * added to the results with both scales, before the next block. All steps through a block take equally many runs, at
 * most sixteen; runs that are missing at its end are zeros. Blocks of more inputs than are unpacked at a time are
 * unpacked for every 32 rows. Few rows are multiplied as with AVX-512.
 */
#include "qc_gemm_wna8_vnni.h"
#include "qc_tiles_x86.h"

enum {
    PANEL = 16,       /* outputs */
    UNPACKED = 256,   /* runs of a panel at a time */
    RUN_BYTES = 64,   /* of a panel */
    RUN_INPUTS = 4,
    FEWEST_ROWS = 16, /* fewer would leave most of a tile empty */
};

typedef struct {
    _Alignas(64) uint8_t codes[2][UNPACKED * RUN_BYTES];
    _Alignas(64) int32_t sums[2 * TILE_ROWS][2 * PANEL];
    reals results[2 * TILE_ROWS * 2];
} workspace;

/* How a block is walked through. */
typedef struct {
    const qc_gemm_wna8_args *args;
    qc_division division;
    size_t chunk_runs;
    size_t each;             /* runs of a step */
    size_t block_runs, last; /* of a block in whole steps, and of the last block */
} walk;

/* 32 rows and 32 outputs, or fewer at the ends. */
typedef struct {
    size_t row, rows, panel, panels;
} square;

static size_t whole_steps(size_t runs, size_t each) { return (runs + each - 1) / each * each; }

static walk walk_of(const qc_gemm_wna8_args *args) {
    walk w = {.args = args, .division = qc_divide(args->depth, args->block, (unsigned)args->bits, QC_COLUMNS, QC_DEPTH)};
    w.chunk_runs = w.division.chunk / RUN_INPUTS;
    const size_t runs = w.division.full * w.chunk_runs, most = runs < UNPACKED ? runs : UNPACKED;
    const size_t steps = (most + TILE_RUNS - 1) / TILE_RUNS;
    w.each = (most + steps - 1) / steps;
    w.block_runs = whole_steps(runs, w.each);
    w.last = whole_steps(w.division.last * w.chunk_runs, w.each);
    return w;
}

/* Chunks [first, first + chunks) of block g of a panel as bytes, and zeros up to whole steps. */
static void unpack(const walk *w, size_t panel, size_t g, size_t first, size_t chunks, uint8_t *to) {
    const qc_division *d = &w->division;
    const unsigned bits = (unsigned)w->args->bits;
    const uint8_t *from = w->args->weight + panel * qc_panel_bytes(d) + (g * d->full + first) * d->bytes;
    const size_t runs = chunks * w->chunk_runs;
    if (bits == 8)
        memcpy(to, from, runs * RUN_BYTES);
    else
        decode_chunks(from, d->bytes, chunks, bits, to, w->chunk_runs * RUN_BYTES);
    memset(to + runs * RUN_BYTES, 0, (whole_steps(runs, w->each) - runs) * RUN_BYTES);
}

/* Adds the products of `runs` runs, that many whole steps, from input `k` on; codes begin at byte `at`. */
static void multiply(const walk *w, const workspace *space, const square *s, size_t k, size_t at, size_t runs) {
    const size_t stride = w->args->input_stride;
    const int8_t *input = w->args->input + s->row * stride + k, *more = input + TILE_ROWS * stride;
    const uint8_t *weight = space->codes[0] + at, *second = space->codes[1] + at;
    for (size_t run = 0; run < runs; run += w->each) {
        _tile_loadd(4, input, stride);
        _tile_loadd(6, weight, RUN_BYTES);
        _tile_dpbsud(0, 4, 6);
        if (s->panels > 1) {
            _tile_loadd(7, second, RUN_BYTES);
            _tile_dpbsud(1, 4, 7);
        }
        if (s->rows > TILE_ROWS) {
            _tile_loadd(5, more, stride);
            _tile_dpbsud(2, 5, 6);
            if (s->panels > 1) _tile_dpbsud(3, 5, 7);
        }
        input += w->each * RUN_INPUTS, more += w->each * RUN_INPUTS;
        weight += w->each * RUN_BYTES, second += w->each * RUN_BYTES;
    }
}

static void clear_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static void store_sums(workspace *space) {
    _tile_stored(0, space->sums[0], sizeof space->sums[0]);
    _tile_stored(1, space->sums[0] + PANEL, sizeof space->sums[0]);
    _tile_stored(2, space->sums[TILE_ROWS], sizeof space->sums[0]);
    _tile_stored(3, space->sums[TILE_ROWS] + PANEL, sizeof space->sums[0]);
    QC_MEMORY_CHANGES(space);
}

/* Adds the stored sums of block g, less zero points and with both scales, to the results. */
static void finish(const walk *w, workspace *space, const square *s, size_t g) {
    const qc_gemm_wna8_args *args = w->args;
    const size_t blocks = w->division.blocks;
    for (size_t p = 0; p < s->panels; ++p) {
        const size_t at = ((s->panel + p) * blocks + g) * PANEL;
        const reals scale = load_reals(args->scale + at);
        const ints zero = args->zero ? load_bytes(args->zero + at) : all_ints(args->common_zero);
        for (size_t r = 0; r < s->rows; ++r) {
            const size_t of_row = (s->row + r) * blocks + g;
            const ints sum = _mm512_load_si512(space->sums[r] + p * PANEL);
            const ints total = minus_product(sum, zero, all_ints(args->input_sum[of_row]));
            reals *result = space->results + r * s->panels + p;
            *result = fused(to_reals(total), times(all_reals(args->input_scale[of_row]), scale), *result);
        }
    }
}

static void load_square(const walk *w, workspace *space, const square *s, size_t g) {
    for (size_t r = 0; r < s->rows; ++r)
        load_tile(w->args, space->results + r * s->panels, s->row + r, s->panel, g, 1, (int)s->panels);
}

static void store_square(const walk *w, const workspace *space, const square *s) {
    for (size_t r = 0; r < s->rows; ++r)
        store_tile(w->args, space->results + r * s->panels, s->row + r, s->panel, 1, (int)s->panels);
}

/* Blocks [begin, end), whose codes are unpacked. */
static void add_unpacked(const walk *w, workspace *space, const square *s, size_t begin, size_t end) {
    load_square(w, space, s, begin);
    for (size_t g = begin; g < end; ++g) {
        const size_t runs = g + 1 < w->division.blocks ? w->block_runs : w->last;
        clear_sums();
        multiply(w, space, s, g * w->args->block, (g - begin) * w->block_runs * RUN_BYTES, runs);
        store_sums(space);
        finish(w, space, s, g);
    }
    store_square(w, space, s);
}

/* All blocks, each too large to be unpacked as a whole. */
static void add_large(const walk *w, workspace *space, const square *s) {
    const qc_division *d = &w->division;
    const size_t most = UNPACKED / w->chunk_runs;
    load_square(w, space, s, 0);
    for (size_t g = 0; g < d->blocks; ++g) {
        const size_t chunks = g + 1 < d->blocks ? d->full : d->last;
        clear_sums();
        for (size_t c = 0; c < chunks; c += most) {
            const size_t count = chunks - c < most ? chunks - c : most;
            for (size_t p = 0; p < s->panels; ++p) unpack(w, s->panel + p, g, c, count, space->codes[p]);
            QC_MEMORY_CHANGES(space);
            multiply(w, space, s, g * w->args->block + c * d->chunk, 0, whole_steps(count * w->chunk_runs, w->each));
        }
        store_sums(space);
        finish(w, space, s, g);
    }
    store_square(w, space, s);
}

/* Blocks [begin, end) of all rows, or all blocks where they are large. */
static void add_rows(const walk *w, workspace *space, size_t panel, size_t panels, size_t begin, size_t end) {
    size_t shaped = 0;
    for (size_t row = 0; row < w->args->rows; row += 2 * TILE_ROWS) {
        const size_t left = w->args->rows - row, rows = left < 2 * TILE_ROWS ? left : 2 * TILE_ROWS;
        const size_t first = rows < TILE_ROWS ? rows : TILE_ROWS;
        const square s = {row, rows, panel, panels};
        if (rows != shaped) set_tile_shapes(first, rows - first, w->each);
        shaped = rows;
        if (w->block_runs > UNPACKED)
            add_large(w, space, &s);
        else
            add_unpacked(w, space, &s, begin, end);
    }
}

void qc_gemm_wna8_amx(const qc_gemm_wna8_args *args, size_t begin, size_t end) {
    if (args->rows < FEWEST_ROWS) {
        by_panels(args, begin, end);
        return;
    }
    const walk w = walk_of(args);
    const int large = w.block_runs > UNPACKED;
    const size_t blocks = w.division.blocks, at_once = large ? blocks : UNPACKED / w.block_runs;
    workspace space;
    memset(space.sums, 0, sizeof space.sums);
    for (size_t panel = begin; panel < end; panel += 2) {
        const size_t panels = end - panel < 2 ? 1 : 2;
        for (size_t g = 0; g < blocks; g += at_once) {
            const size_t last = g + at_once < blocks ? g + at_once : blocks;
            for (size_t i = g; i < last && !large; ++i)
                for (size_t p = 0; p < panels; ++p)
                    unpack(&w, panel + p, i, 0, i + 1 < blocks ? w.division.full : w.division.last,
                           space.codes[p] + (i - g) * w.block_runs * RUN_BYTES);
            QC_MEMORY_CHANGES(&space);
            add_rows(&w, &space, panel, panels, g, last);
        }
    }
    _tile_release();
}
