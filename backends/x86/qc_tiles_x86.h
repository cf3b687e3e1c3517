/* Tiles of AMX as the products of bytes use them: 2 x 2 of sums, two of activations, two of weights. */
#ifndef QC_TILES_X86_H
#define QC_TILES_X86_H

#include <immintrin.h>

#include "qc_base.h"

enum { TILE_ROWS = 16, TILE_RUNS = 16, TILE_BYTES = 64 };
enum { SUMS, INPUTS = 4, WEIGHTS = 6 }; /* first tiles */

/* What _tile_loadconfig reads. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* The compiler does not know that instructions on tiles read and write what `at` points into. */
#define QC_MEMORY_CHANGES(at) __asm__ volatile("" ::"r"(at) : "memory")

/* For `first` and `second` rows of activations, and products over `runs` runs of four inputs. */
static inline void set_tile_shapes(size_t first, size_t second, size_t runs) {
    const size_t rows[2] = {first, second};
    tile_shapes shapes = {.palette = 1};
    for (size_t tile = 0; tile < 8; ++tile) {
        const size_t of = tile < INPUTS ? tile / 2 : tile - INPUTS;
        const int inputs = tile >= INPUTS && tile < WEIGHTS;
        shapes.row_bytes[tile] = (uint16_t)(inputs ? 4 * runs : TILE_BYTES);
        /* A tile without rows is not allowed; nothing uses what it holds. */
        shapes.rows[tile] = (uint8_t)(tile >= WEIGHTS ? runs : rows[of] ? rows[of] : 1);
    }
    QC_MEMORY_CHANGES(&shapes);
    _tile_loadconfig(&shapes);
}

#endif
