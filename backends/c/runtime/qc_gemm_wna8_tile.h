/* What the fast versions of qc_gemm_wna8 share: tiles of rows by panels, block by block.
 *
 * A version calls `by_panels`, or what this is made of, and defines
 *   QC_COLUMNS, QC_LANES     outputs of a panel and int32 of a vector; V = QC_COLUMNS / QC_LANES vectors make a panel
 *   QC_ROWS, QC_MANY_PANELS  rows of the large tile and panels beside each other in it
 *   QC_PANELS                panels beside each other for a single row
 *   ints, reals              vector types
 *   QC_SUMS(bits, rows)      sums that a tile keeps for each vector of results (more than one shortens dependences)
 *   set_sums, fold           make them mean one number, and the number that they mean
 *   QC_OFFSET(bits)          what `chunk` subtracts from codes of weights, where the product takes signed ones only
 *   QC_DECODED               inputs that are unpacked at a time for many rows
 *   QC_CHUNK                 inputs of a chunk whose codes are bytes
 *   QC_GATHERS               1 where tiles of rows beside unpacked codes read activations that were gathered for them:
 *                            those of one chunk side by side, in the order of the version
 *   turn(sums, rows, wide)   sums of a tile of rows as the version adds to them become sums by rows, and back
 *   chunk(...)               adds the products of one chunk to all sums of a tile
 *   decode(chunk, bits, to)  unpacks one chunk of a panel to bytes
 *   and the small operations on vectors that are used below.
 */
#ifndef QC_GEMM_WNA8_TILE_H
#define QC_GEMM_WNA8_TILE_H

#include "qc_gemm_wna8.h"

#define QC_BYTES 7     /* in place of bits: codes below 16, one in a byte */
#define QC_MOST_WIDE (QC_VECTORS * (QC_MANY_PANELS > QC_PANELS ? QC_MANY_PANELS : QC_PANELS))
#define QC_MOST_RESULTS                                                                                      \
    (QC_VECTORS * (QC_ROWS * QC_MANY_PANELS > QC_PANELS ? QC_ROWS * QC_MANY_PANELS : QC_PANELS))
#define QC_VECTORS (QC_COLUMNS / QC_LANES)
/* What lies in memory is read anew behind this: kept in registers across the inner loop, it would displace sums. */
#define QC_FORGET() __asm__ volatile("" : : : "memory")

/* Codes of some blocks of neighbouring panels, and what is multiplied by them. */
typedef struct {
    const uint8_t *codes;
    size_t panel_bytes, chunk_bytes, chunk_inputs, full, last; /* as qc_division */
    size_t begin, end;                                         /* blocks */
    const int8_t *gathered;                                    /* activations of row `first_row` and behind, */
    size_t first_row, gathered_inputs;                         /* so many of each */
} stretch;

/* Where the values of one block of all rows of a tile lie. Rows from the fifth have a pointer of their own, so that the
 * distances of all take three registers.
 */
#define QC_NEAR 4
typedef struct {
    const float *scale[2];
    const int32_t *sum[2];
} row_values;

QC_INLINE row_values values_of(const qc_gemm_wna8_args *args, size_t at, size_t blocks, int rows) {
    row_values v = {{args->input_scale + at, args->input_scale + at}, {args->input_sum + at, args->input_sum + at}};
    if (rows > QC_NEAR) {
        v.scale[1] += QC_NEAR * blocks, v.sum[1] += QC_NEAR * blocks;
        __asm__("" : "+r"(v.scale[1]), "+r"(v.sum[1])); /* else compilers see eight distances from one pointer */
    }
    return v;
}

/* A sum begins with what is the same for all columns: the common zero point, and the offset of codes, times the sum of
 * inputs.
 */
QC_INLINE void start_sums(ints *sums, const row_values *values, size_t blocks, ints factor, int rows, int wide,
                          unsigned bits) {
    const int each = QC_SUMS(bits, rows);
    QC_UNROLL for (int r = 0; r < rows; ++r) {
        const ints start = product(factor, all_ints(values->sum[r / QC_NEAR][(size_t)(r % QC_NEAR) * blocks]));
        QC_UNROLL for (int i = 0; i < wide; ++i) set_sums(sums + (r * wide + i) * each, start, each);
    }
}

/* Adds sums of one block, times both scales; where zero points differ, or are `late`, less their products with sums of
 * inputs.
 * Results of some rows are stored at once: enough to hide latencies, not too many for the registers.
 */
QC_INLINE void finish_block(const ints *sums, const float *scales, const uint8_t *zeros, const ints *late, size_t apart,
                            const row_values *values, size_t blocks, reals *acc, int rows, int panels, unsigned bits) {
    const int wide = panels * QC_VECTORS, each = QC_SUMS(bits, rows);
    reals scale[QC_MOST_WIDE], done[QC_NEAR * QC_MOST_WIDE];
    ints zero[QC_MOST_WIDE];
    QC_UNROLL for (int i = 0; i < wide; ++i) {
        const size_t at = (size_t)(i / QC_VECTORS) * apart + (size_t)(i % QC_VECTORS * QC_LANES);
        scale[i] = load_reals(scales + at);
        if (zeros) zero[i] = plus(load_bytes(zeros + at), all_ints(-QC_OFFSET(bits)));
        if (late) zero[i] = *late;
    }
    QC_UNROLL for (int r = 0; r < rows; ++r) {
        const int near = r % QC_NEAR;
        const size_t at = (size_t)near * blocks;
        const reals given = all_reals(values->scale[r / QC_NEAR][at]);
        QC_UNROLL for (int i = 0; i < wide; ++i) {
            ints sum = fold(sums + (r * wide + i) * each, bits, rows);
            if (zeros || late) sum = minus_product(sum, zero[i], all_ints(values->sum[r / QC_NEAR][at]));
            done[near * wide + i] = fused(to_reals(sum), times(given, scale[i]), acc[r * wide + i]);
        }
        if (near < QC_NEAR - 1 && r + 1 < rows) continue;
        QC_UNROLL for (int i = 0; i < (near + 1) * wide; ++i) acc[(r - near) * wide + i] = done[i];
    }
}

/* Adds all blocks of a stretch to the results of a tile: sums stay in registers until they are results. `acc` lies in
 * memory, so that nothing else takes registers, and this is a function of its own for every kind of tile.
 */
QC_INLINE void add_blocks(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t row, size_t panel,
                          reals *acc, int rows, int panels, unsigned bits) {
    const int wide = panels * QC_VECTORS;
    const ints factor = all_ints(args->zero ? 0 : QC_OFFSET(bits) - args->common_zero);
    const ints common = all_ints(args->common_zero);
    const size_t apart = blocks * QC_COLUMNS, begin = from->begin, end = from->end;
    const size_t chunk_bytes = from->chunk_bytes, chunk_inputs = from->chunk_inputs, panel_bytes = from->panel_bytes;
    const size_t stride = args->input_stride, block = args->block;
    const uint8_t *codes = from->codes;
    const uint8_t *zeros = args->zero ? args->zero + (panel * blocks + begin) * QC_COLUMNS : NULL;
    const float *scales = args->scale + (panel * blocks + begin) * QC_COLUMNS;
    const int gathered = QC_GATHERS && bits == QC_BYTES && rows > 1;
    const size_t chunk_step = gathered ? (size_t)rows * chunk_inputs : chunk_inputs;
    const size_t block_step = gathered ? from->full * chunk_step : block;
    const int8_t *first = gathered ? from->gathered + (row - from->first_row) * from->gathered_inputs
                                   : args->input + row * stride + begin * block;
    row_values values = values_of(args, row * blocks + begin, blocks, rows);
    for (size_t g = begin; g < end; ++g, first += block_step, scales += QC_COLUMNS) {
        const int8_t *input = first;
        ints sums[QC_MOST_SUMS];
        if (gathered) {
            QC_UNROLL for (int i = 0; i < rows * wide; ++i) sums[i] = all_ints(0);
        } else {
            start_sums(sums, &values, blocks, factor, rows, wide, bits);
            if (rows > 1) turn(sums, rows, wide);
        }
        QC_FORGET();
        for (size_t c = g + 1 < blocks ? from->full : from->last; c > 0; --c) {
            chunk(sums, codes, panel_bytes, input, stride, rows, panels, bits);
            codes += chunk_bytes;
            input += chunk_step;
        }
        QC_FORGET();
        if (rows > 1) turn(sums, rows, wide);
        if (zeros) {
            finish_block(sums, scales, zeros, NULL, apart, &values, blocks, acc, rows, panels, bits);
            zeros += QC_COLUMNS;
        } else {
            finish_block(sums, scales, NULL, gathered ? &common : NULL, apart, &values, blocks, acc, rows, panels, bits);
        }
        for (int i = 0; i < 2; ++i) ++values.scale[i], ++values.sum[i];
    }
}

typedef void tile_function(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t row, size_t panel,
                           reals *acc);

#define QC_TILE(name, rows, panels, bits)                                                                          \
    static void name(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t row, size_t panel, \
                     reals *acc) {                                                                                 \
        add_blocks(args, from, blocks, row, panel, acc, rows, panels, bits);                                       \
    }
#define QC_TILES_OF_BITS(bits)                                  \
    QC_TILE(many_rows_##bits, QC_ROWS, QC_MANY_PANELS, bits)    \
    QC_TILE(few_rows_##bits, QC_FEW_ROWS, QC_MANY_PANELS, bits) \
    QC_TILE(one_row_##bits, 1, QC_PANELS, bits)                 \
    QC_TILE(one_panel_##bits, 1, 1, bits)
QC_TILES_OF_BITS(2)
QC_TILES_OF_BITS(3)
QC_TILES_OF_BITS(4)
QC_TILES_OF_BITS(8)
QC_TILES_OF_BITS(7)

enum { MANY_ROWS, FEW_ROWS, ONE_ROW, ONE_PANEL, KINDS };
/* By bits; codes in bytes of their own stand last. */
static tile_function *const TILES[][KINDS] = {
    {many_rows_2, few_rows_2, one_row_2, one_panel_2}, {many_rows_3, few_rows_3, one_row_3, one_panel_3},
    {many_rows_4, few_rows_4, one_row_4, one_panel_4}, {many_rows_8, few_rows_8, one_row_8, one_panel_8},
    {many_rows_7, few_rows_7, one_row_7, one_panel_7},
};

/* What stands in `out`, or the biases for the first block, of a tile that may end within its last panel. */
QC_INLINE void load_tile(const qc_gemm_wna8_args *args, reals *acc, size_t row, size_t panel, size_t first_block,
                         int rows, int panels) {
    const size_t first = panel * QC_COLUMNS, left = args->columns - first;
    const int wide = panels * QC_VECTORS;
    const float *from = args->bias ? args->bias + first : NULL;
    size_t stride = 0;
    if (first_block > 0) from = args->out + row * args->out_stride + first, stride = args->out_stride;
    if (from && left >= (size_t)(wide * QC_LANES)) {
        QC_UNROLL for (int r = 0; r < rows; ++r, from += stride) {
            QC_UNROLL for (int v = 0; v < wide; ++v) acc[r * wide + v] = load_reals(from + v * QC_LANES);
        }
        return;
    }
    QC_UNROLL for (int i = 0; i < rows * wide; ++i) acc[i] = all_reals(0);
    for (int r = 0; from && r < rows; ++r, from += stride) memcpy(acc + r * wide, from, left * sizeof(float));
}

QC_INLINE void store_tile(const qc_gemm_wna8_args *args, const reals *acc, size_t row, size_t panel, int rows,
                          int panels) {
    const size_t first = panel * QC_COLUMNS, left = args->columns - first, stride = args->out_stride;
    const int wide = panels * QC_VECTORS;
    float *out = args->out + row * stride + first;
    if (left < (size_t)(wide * QC_LANES)) {
        for (int r = 0; r < rows; ++r, out += stride) memcpy(out, acc + r * wide, left * sizeof(float));
        return;
    }
    QC_UNROLL for (int r = 0; r < rows; ++r, out += stride) {
        QC_UNROLL for (int v = 0; v < wide; ++v) store_reals(out + v * QC_LANES, acc[r * wide + v]);
    }
}

QC_INLINE void tile_of(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t row, size_t panel,
                       tile_function *add, int rows, int panels) {
    reals acc[QC_MOST_RESULTS];
    load_tile(args, acc, row, panel, from->begin, rows, panels);
    add(args, from, blocks, row, panel, acc);
    store_tile(args, acc, row, panel, rows, panels);
}

static void tile(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t row, size_t panel, int kind,
                 unsigned bits) {
    tile_function *const add = TILES[bits == QC_BYTES ? 4 : bits == 8 ? 3 : bits - 2][kind];
    if (kind == MANY_ROWS)
        tile_of(args, from, blocks, row, panel, add, QC_ROWS, QC_MANY_PANELS);
    else if (kind == FEW_ROWS)
        tile_of(args, from, blocks, row, panel, add, QC_FEW_ROWS, QC_MANY_PANELS);
    else if (kind == ONE_ROW)
        tile_of(args, from, blocks, row, panel, add, 1, QC_PANELS);
    else
        tile_of(args, from, blocks, row, panel, add, 1, 1);
}

/* Codes are unpacked as they are multiplied. */
static stretch packed(const qc_gemm_wna8_args *args, const qc_division *d, size_t panel) {
    const size_t bytes = qc_panel_bytes(d);
    return (stretch){
        args->weight + panel * bytes, bytes, d->bytes, d->chunk, d->full, d->last, 0, d->blocks, NULL, 0, 0};
}

/* Rows [row, end) of QC_MANY_PANELS panels. */
static void some_rows(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t row, size_t end,
                      size_t panel, unsigned bits) {
    for (; row + QC_ROWS <= end; row += QC_ROWS) tile(args, from, blocks, row, panel, MANY_ROWS, bits);
    for (; row + QC_FEW_ROWS <= end; row += QC_FEW_ROWS) tile(args, from, blocks, row, panel, FEW_ROWS, bits);
    const size_t step = QC_PANELS == QC_MANY_PANELS ? QC_PANELS : 1;
    stretch part = *from;
    for (size_t p = 0; p < QC_MANY_PANELS; p += step, part.codes += part.panel_bytes)
        for (size_t r = row; r < end; ++r)
            tile(args, &part, blocks, r, panel + p, step > 1 ? ONE_ROW : ONE_PANEL, bits);
}

static void decode_chunks(const uint8_t *from, size_t bytes, size_t chunks, unsigned bits, uint8_t *to, size_t step) {
    for (size_t c = 0; c < chunks; ++c, from += bytes, to += step) {
        if (bits == 2)
            decode(from, 2, to);
        else if (bits == 3)
            decode(from, 3, to);
        else
            decode(from, 4, to);
    }
}

/* Blocks [begin, end) of QC_MANY_PANELS panels are unpacked to `codes`, QC_DECODED inputs of each panel apart. */
static stretch decoded(const qc_gemm_wna8_args *args, const qc_division *d, size_t panel, size_t begin, size_t end,
                       unsigned bits, uint8_t *codes) {
    const size_t each = d->chunk / QC_CHUNK;
    const size_t chunks = (end - begin - 1) * d->full + (end == d->blocks ? d->last : d->full);
    stretch part = packed(args, d, panel);
    const uint8_t *first = part.codes + begin * d->full * d->bytes;
    for (size_t p = 0; p < QC_MANY_PANELS; ++p)
        decode_chunks(first + p * part.panel_bytes, d->bytes, chunks, bits, codes + p * QC_DECODED * QC_COLUMNS,
                      each * QC_CHUNK * QC_COLUMNS);
    part.codes = codes, part.panel_bytes = QC_DECODED * QC_COLUMNS, part.chunk_bytes = QC_CHUNK * QC_COLUMNS;
    part.chunk_inputs = QC_CHUNK, part.full = d->full * each, part.last = d->last * each;
    part.begin = begin, part.end = end;
    return part;
}

/* For many rows some blocks at a time are unpacked once to bytes that stay in the nearest cache. */
static void decoded_strip(const qc_gemm_wna8_args *args, const qc_division *d, size_t panel, unsigned bits) {
    const size_t at_once = QC_DECODED / (d->full * d->chunk);
    uint8_t codes[QC_MANY_PANELS * QC_DECODED * QC_COLUMNS];
    for (size_t g = 0; g < d->blocks; g += at_once) {
        const size_t end = g + at_once < d->blocks ? g + at_once : d->blocks;
        const stretch from = decoded(args, d, panel, g, end, bits, codes);
        some_rows(args, &from, d->blocks, 0, args->rows, panel, QC_BYTES);
    }
}

/* All rows of panels [begin, end). */
QC_INLINE void by_panels(const qc_gemm_wna8_args *args, size_t begin, size_t end) {
    const unsigned bits = (unsigned)args->bits;
    const qc_division d = qc_divide(args->depth, args->block, bits, QC_COLUMNS, QC_DEPTH);
    const int many = args->rows >= QC_FEW_ROWS;
    const int once = !QC_GATHERS && bits < 8 && args->rows >= QC_ROWS && d.full * d.chunk <= QC_DECODED;
    const size_t step = many ? QC_MANY_PANELS : QC_PANELS;
    size_t panel = begin;
    for (; panel + step <= end; panel += step) {
        const stretch from = packed(args, &d, panel);
        if (once) {
            decoded_strip(args, &d, panel, bits);
        } else if (many) {
            some_rows(args, &from, d.blocks, 0, args->rows, panel, bits);
        } else {
            for (size_t row = 0; row < args->rows; ++row) tile(args, &from, d.blocks, row, panel, ONE_ROW, bits);
        }
    }
    for (; panel < end; ++panel) {
        const stretch from = packed(args, &d, panel);
        for (size_t row = 0; row < args->rows; ++row) tile(args, &from, d.blocks, row, panel, ONE_PANEL, bits);
    }
}

#endif
