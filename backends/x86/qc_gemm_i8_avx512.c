/* qc_gemm_i8 with the tiles of qc_gemm_i8_vnni.h. */
#include "qc_gemm_i8_vnni.h"

#define TILE(rows, panels, apart)                                                                   \
    static void tile_##rows##x##panels(const qc_gemm_i8_args *args, size_t m, size_t n, size_t ahead, \
                                       __m512i *sums) {                                            \
        tile(args, m, n, sums, rows, panels, apart, TO_NONE, ahead);                                 \
    }
/* Prefetches what lies `ahead` bytes behind the weights that it reads. */
#define FETCHING_TILE(rows, apart)                                                                  \
    static void fetching_tile_##rows(const qc_gemm_i8_args *args, size_t m, size_t n, size_t ahead, \
                                     __m512i *sums) {                                              \
        tile(args, m, n, sums, rows, PANELS, apart, TO_SECOND, ahead);                                  \
    }
TILE(1, 1, 4) TILE(2, 1, 4) TILE(3, 1, 4) TILE(4, 1, 4) TILE(5, 1, 2) TILE(6, 1, 2)
TILE(1, 2, 4) TILE(2, 2, 4) TILE(3, 2, 2) TILE(4, 2, 2) TILE(5, 2, 1) TILE(6, 2, 1)
TILE(1, 3, 4) TILE(2, 3, 2) TILE(3, 3, 1) TILE(4, 3, 1) TILE(5, 3, 1) TILE(6, 3, 1)
TILE(1, 4, 4) TILE(2, 4, 2) TILE(3, 4, 1) TILE(4, 4, 1) TILE(5, 4, 1) TILE(6, 4, 1)
FETCHING_TILE(1, 4) FETCHING_TILE(2, 2) FETCHING_TILE(3, 1) FETCHING_TILE(4, 1) FETCHING_TILE(5, 1) FETCHING_TILE(6, 1)

static tile_function *const TILES[PANELS][ROWS] = {
    {tile_1x1, tile_2x1, tile_3x1, tile_4x1, tile_5x1, tile_6x1},
    {tile_1x2, tile_2x2, tile_3x2, tile_4x2, tile_5x2, tile_6x2},
    {tile_1x3, tile_2x3, tile_3x3, tile_4x3, tile_5x3, tile_6x3},
    {tile_1x4, tile_2x4, tile_3x4, tile_4x4, tile_5x4, tile_6x4},
};
static tile_function *const FETCHING_TILES[ROWS] = {fetching_tile_1, fetching_tile_2, fetching_tile_3,
                                                    fetching_tile_4, fetching_tile_5, fetching_tile_6};

#define FINISH(across)                                                                              \
    static void finish_##across(const qc_gemm_i8_args *args, size_t m, size_t n, size_t rows, const __m512i *sums) { \
        finish(args, m, n, rows, across, sums);                                                    \
    }
FINISH(1) FINISH(2) FINISH(4)

static void (*const FINISHES[PANELS])(const qc_gemm_i8_args *, size_t, size_t, size_t, const __m512i *) = {
    finish_1, finish_2, finish_4, finish_4};

/* Weights that share the second cache with all else. */
enum { MANY_BYTES = 512 * 1024 };

/* Words are many bytes: they are on their way to the cache while the sums are made. */
QC_INLINE void prefetch_words(const qc_gemm_i8_args *args, size_t m, size_t n, size_t rows) {
    for (size_t r = 0; r < rows; ++r) {
        const char *out = (const char *)args->out + ((m + r) * args->out_stride + n) * 4;
        for (size_t p = 0; p < PANELS; ++p) __builtin_prefetch(out + 64 * p, 1);
    }
}

/* Rows in tiles of almost equal height: a short last one would waste multipliers. With many weights the first tiles
 * fetch the panels of the next columns.
 */
static void by_tiles(const qc_gemm_i8_args *args, size_t begin, size_t end, size_t n, size_t panels) {
    __m512i sums[ROWS * PANELS + PANELS] = {0};
    const bool words = qc_result_bytes(args->epilogue.finish) == 4;
    const size_t panel = panel_bytes(args);
    const bool fetch = panels == PANELS && panel * args->columns > MANY_BYTES * PANEL;
    size_t tiles = (end - begin + ROWS - 1) / ROWS, done = 0;
    for (size_t m = begin, rows; m < end; m += rows, --tiles, ++done) {
        rows = (end - m + tiles - 1) / tiles;
        if (words) prefetch_words(args, m, n, rows);
        if (fetch && done < PANELS)
            FETCHING_TILES[rows - 1](args, m, n, (PANELS + done) * panel, sums);
        else
            TILES[panels - 1][rows - 1](args, m, n, 0, sums);
        FINISHES[panels - 1](args, m, n, rows, sums);
    }
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
