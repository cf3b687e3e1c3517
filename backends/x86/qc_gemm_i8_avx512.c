/* qc_gemm_i8 with vpdpbusd: 64 multiply-accumulates an instruction, two a cycle.
 *
 * A tile of R rows and C panels of 16 columns keeps R * C sums in registers. A step over four inputs loads C vectors of
 * weights, broadcasts four activations of each row and multiplies R * C times: the 6 x 4 tile makes 1536
 * multiply-accumulates from 10 loads and 24 products, which the two multipliers need 12 cycles for.
 */
#include "qc_gemm_i8.h"

#include "qc_finish_x86.h"

enum { PANEL = 16, ROWS = 6, PANELS = 4, STREAMED_ROWS = 4, CACHED_BYTES = 384 * 1024, AHEAD = 2048 };

/* Sums of a tile, bias included, to `sums`: [rows][panels], where 3 panels take the room of 4. */
typedef void tile_function(const qc_gemm_i8_args *args, size_t m, size_t n, __m512i *sums);

/* Where rows m, m + 1, ... start: one division for all of them. */
QC_INLINE void row_starts(const qc_gemm_i8_args *args, size_t m, size_t rows, const qc_act *starts[]) {
    size_t x = m % args->width;
    const qc_act *line = args->input + m / args->width * args->outer_stride;
    QC_UNROLL
    for (size_t r = 0; r < rows; ++r) {
        starts[r] = line + x * args->inner_stride;
        if (++x == args->width) x = 0, line += args->outer_stride;
    }
}

QC_INLINE __m512i four_activations(const qc_act *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm512_set1_epi32(four);
}

/* One step over four inputs. */
QC_INLINE void step(__m512i *sums, const qc_act *const *starts, ptrdiff_t k, const int8_t *weight, size_t panel,
                    size_t rows, size_t panels) {
    __m512i columns[PANELS];
    QC_UNROLL
    for (size_t c = 0; c < panels; ++c) columns[c] = _mm512_loadu_si512(weight + c * panel);
    QC_UNROLL
    for (size_t r = 0; r < rows; ++r) {
        __m512i inputs = four_activations(starts[r] + k);
        QC_UNROLL
        for (size_t c = 0; c < panels; ++c)
            sums[r * panels + c] = _mm512_dpbusd_epi32(sums[r * panels + c], inputs, columns[c]);
    }
}

/* `apart` steps go to sums of their own, so that a product need not wait for the one before (5 cycles). */
QC_INLINE void tile(const qc_gemm_i8_args *args, size_t m, size_t n, __m512i *result, size_t rows, size_t panels,
                    size_t apart, size_t ahead) {
    const size_t runs = (args->depth + 3) / 4, panel = args->taps * runs * PANEL * 4, all = rows * panels;
    const int8_t *weight = args->weight + n / PANEL * panel;
    const qc_act *starts[ROWS];
    __m512i sums[ROWS * PANELS];
    row_starts(args, m, rows, starts);
    QC_UNROLL
    for (size_t i = 0; i < all * apart; ++i)
        sums[i] = i < all ? _mm512_loadu_si512(args->epilogue.bias + n + i % panels * PANEL) : _mm512_setzero_si512();
    for (size_t t = 0; t < args->taps; ++t) {
        ptrdiff_t k = args->offsets ? args->offsets[t] : 0;
        size_t run = 0;
        for (; run + apart <= runs; run += apart) {
            QC_UNROLL
            for (size_t i = 0; i < apart; ++i, k += 4, weight += PANEL * 4) {
                if (ahead) _mm_prefetch((const char *)weight + ahead, _MM_HINT_T0);
                step(sums + i * all, starts, k, weight, panel, rows, panels);
            }
        }
        for (; apart > 1 && run < runs; ++run, k += 4, weight += PANEL * 4)
            step(sums, starts, k, weight, panel, rows, panels);
    }
    QC_UNROLL
    for (size_t i = 0; i < all; ++i) {
        QC_UNROLL
        for (size_t j = i + all; j < all * apart; j += all) sums[i] = _mm512_add_epi32(sums[i], sums[j]);
        result[i / panels * (panels == 3 ? 4 : panels) + i % panels] = sums[i];
    }
}

#define TILE(rows, panels, apart)                                                                  \
    static void tile_##rows##x##panels(const qc_gemm_i8_args *args, size_t m, size_t n, __m512i *sums) { \
        tile(args, m, n, sums, rows, panels, apart, 0);                                                  \
    }
#define STREAM(rows, apart)                                                                        \
    static void stream_##rows(const qc_gemm_i8_args *args, size_t m, size_t n, __m512i *sums) { \
        tile(args, m, n, sums, rows, 1, apart, AHEAD);                                                   \
    }
TILE(1, 1, 4) TILE(2, 1, 4) TILE(3, 1, 4) TILE(4, 1, 4) TILE(5, 1, 2) TILE(6, 1, 2)
TILE(1, 2, 4) TILE(2, 2, 4) TILE(3, 2, 2) TILE(4, 2, 2) TILE(5, 2, 1) TILE(6, 2, 1)
TILE(1, 3, 4) TILE(2, 3, 2) TILE(3, 3, 1) TILE(4, 3, 1) TILE(5, 3, 1) TILE(6, 3, 1)
TILE(1, 4, 4) TILE(2, 4, 2) TILE(3, 4, 1) TILE(4, 4, 1) TILE(5, 4, 1) TILE(6, 4, 1)
STREAM(1, 4) STREAM(2, 4) STREAM(3, 4) STREAM(4, 4)

static tile_function *const TILES[PANELS][ROWS] = {
    {tile_1x1, tile_2x1, tile_3x1, tile_4x1, tile_5x1, tile_6x1},
    {tile_1x2, tile_2x2, tile_3x2, tile_4x2, tile_5x2, tile_6x2},
    {tile_1x3, tile_2x3, tile_3x3, tile_4x3, tile_5x3, tile_6x3},
    {tile_1x4, tile_2x4, tile_3x4, tile_4x4, tile_5x4, tile_6x4},
};
static tile_function *const STREAMS[STREAMED_ROWS] = {stream_1, stream_2, stream_3, stream_4};

/* Rows [m, m + rows) of up to 64 columns from n on. */
QC_INLINE void finish(const qc_gemm_i8_args *args, size_t m, size_t n, size_t rows, size_t panels, const __m512i *sums) {
    const size_t bytes = qc_result_bytes(args->epilogue.finish), left = args->columns - n;
    qc_block block = {m, rows, n, left < PANEL * panels ? left : PANEL * panels, NULL, args->out_stride * bytes};
    block.out = (char *)args->out + m * block.row_bytes + n * bytes;
    const qc_limits limits = qc_limits_of(&args->epilogue);
    for (; block.rows > 0; sums += PANELS) {
        const size_t done = block.rows < PANELS / panels ? block.rows : PANELS / panels;
        qc_finish_block(&args->epilogue, &limits, sums, panels, false, &block);
        block.row += done, block.rows -= done, block.out += done * block.row_bytes;
    }
}

static void finish_1(const qc_gemm_i8_args *args, size_t m, size_t n, size_t rows, const __m512i *sums) {
    finish(args, m, n, rows, 1, sums);
}
static void finish_2(const qc_gemm_i8_args *args, size_t m, size_t n, size_t rows, const __m512i *sums) {
    finish(args, m, n, rows, 2, sums);
}
static void finish_4(const qc_gemm_i8_args *args, size_t m, size_t n, size_t rows, const __m512i *sums) {
    finish(args, m, n, rows, 4, sums);
}

static void (*const FINISHES[PANELS])(const qc_gemm_i8_args *, size_t, size_t, size_t, const __m512i *) = {
    finish_1, finish_2, finish_4, finish_4};

/* Few rows: weights are read once, in one stream. */
static void by_stream(const qc_gemm_i8_args *args, size_t m, size_t rows) {
    __m512i sums[STREAMED_ROWS * PANELS] = {0};
    for (size_t n = 0; n < args->columns; n += PANEL) {
        STREAMS[rows - 1](args, m, n, sums);
        finish_1(args, m, n, rows, sums);
    }
}

/* Words are many bytes: they are on their way to the cache while the sums are made. */
QC_INLINE void prefetch_words(const qc_gemm_i8_args *args, size_t m, size_t n, size_t rows) {
    for (size_t r = 0; r < rows; ++r) {
        const char *out = (const char *)args->out + ((m + r) * args->out_stride + n) * 4;
        for (size_t p = 0; p < PANELS; ++p) __builtin_prefetch(out + 64 * p, 1);
    }
}

/* Rows in tiles of almost equal height: a short last one would waste multipliers. */
static void by_tiles(const qc_gemm_i8_args *args, size_t begin, size_t end, size_t n, size_t panels) {
    __m512i sums[ROWS * PANELS + PANELS] = {0};
    const bool words = qc_result_bytes(args->epilogue.finish) == 4;
    size_t tiles = (end - begin + ROWS - 1) / ROWS;
    for (size_t m = begin, rows; m < end; m += rows, --tiles) {
        rows = (end - m + tiles - 1) / tiles;
        if (words) prefetch_words(args, m, n, rows);
        TILES[panels - 1][rows - 1](args, m, n, sums);
        FINISHES[panels - 1](args, m, n, rows, sums);
    }
}

/* Rows of activations that stay in the second cache while all weights pass by. */
static size_t cached_rows(const qc_gemm_i8_args *args) {
    size_t bytes = args->taps > 1 ? args->inner_stride : args->depth;
    size_t rows = CACHED_BYTES / (bytes ? bytes : 1);
    return rows < 8 * ROWS ? 8 * ROWS : rows;
}

void qc_gemm_i8_avx512(const qc_gemm_i8_args *args, size_t begin, size_t end) {
    const size_t panels = (args->columns + PANEL - 1) / PANEL, block = cached_rows(args);
    if (begin < end && end - begin <= STREAMED_ROWS) {
        by_stream(args, begin, end - begin);
        return;
    }
    for (size_t m = begin; m < end; m += block) {
        size_t last = end - m < block ? end : m + block;
        for (size_t p = 0; p < panels; p += PANELS)
            by_tiles(args, m, last, p * PANEL, panels - p < PANELS ? panels - p : PANELS);
    }
}
