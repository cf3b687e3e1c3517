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
 *   QC_CHUNK                 inputs of a chunk whose codes are bytes
 *   chunk(...)               adds the products of one chunk to all sums of a tile
 *   decode(chunk, bits, to)  unpacks one chunk of a panel to bytes
 *   and the small operations on vectors that are used below.
 */
#ifndef QC_GEMM_WNA8_TILE_H
#define QC_GEMM_WNA8_TILE_H

#include "qc_gemm_wna8.h"

#define QC_DECODED 512 /* inputs that are unpacked at a time */
#define QC_BYTES 7     /* in place of bits: codes below 16, one in a byte */
#define QC_MOST_WIDE (QC_VECTORS * (QC_MANY_PANELS > QC_PANELS ? QC_MANY_PANELS : QC_PANELS))
#define QC_MOST_RESULTS                                                                                      \
    (QC_VECTORS * (QC_ROWS * QC_MANY_PANELS > QC_PANELS ? QC_ROWS * QC_MANY_PANELS : QC_PANELS))
#define QC_VECTORS (QC_COLUMNS / QC_LANES)

/* Codes of some blocks of neighbouring panels. */
typedef struct {
    const uint8_t *codes;
    size_t panel_bytes, chunk_bytes, chunk_inputs, full, last; /* as qc_division */
    size_t begin, end;                                         /* blocks */
} stretch;

/* The sums of products of one block, from what `start` holds for each row, to memory; a function of its own for every
 * kind of tile, so that nothing else takes registers.
 */
QC_INLINE void block_sums(ints *result, const int32_t *start, const stretch *from, const uint8_t *codes, size_t chunks,
                          const int8_t *input, size_t stride, int rows, int panels, unsigned bits) {
    const int count = panels * QC_VECTORS, each = QC_SUMS(bits, rows), all = rows * count;
    ints sums[QC_MOST_SUMS];
    QC_UNROLL for (int i = 0; i < all; ++i) set_sums(sums + i * each, start[i / count], each);
    for (size_t c = 0; c < chunks; ++c) {
        chunk(sums, codes, from->panel_bytes, input, stride, rows, panels, bits);
        codes += from->chunk_bytes;
        input += from->chunk_inputs;
    }
    QC_UNROLL for (int i = 0; i < all; ++i) result[i] = fold(sums + i * each, bits, rows);
}

typedef void block_function(ints *result, const int32_t *start, const stretch *from, const uint8_t *codes,
                            size_t chunks, const int8_t *input, size_t stride);

#define QC_BLOCK(name, rows, panels, bits)                                                                        \
    static void name(ints *result, const int32_t *start, const stretch *from, const uint8_t *codes, size_t chunks, \
                     const int8_t *input, size_t stride) {                                                         \
        block_sums(result, start, from, codes, chunks, input, stride, rows, panels, bits);                         \
    }
#define QC_BLOCKS_OF_BITS(bits)                               \
    QC_BLOCK(many_rows_##bits, QC_ROWS, QC_MANY_PANELS, bits)    \
    QC_BLOCK(few_rows_##bits, QC_FEW_ROWS, QC_MANY_PANELS, bits) \
    QC_BLOCK(one_row_##bits, 1, QC_PANELS, bits)                 \
    QC_BLOCK(one_panel_##bits, 1, 1, bits)
QC_BLOCKS_OF_BITS(2)
QC_BLOCKS_OF_BITS(3)
QC_BLOCKS_OF_BITS(4)
QC_BLOCKS_OF_BITS(8)
QC_BLOCKS_OF_BITS(7)

enum { MANY_ROWS, FEW_ROWS, ONE_ROW, ONE_PANEL, KINDS };
/* By bits; codes in bytes of their own stand last. */
static block_function *const BLOCKS[][KINDS] = {
    {many_rows_2, few_rows_2, one_row_2, one_panel_2}, {many_rows_3, few_rows_3, one_row_3, one_panel_3},
    {many_rows_4, few_rows_4, one_row_4, one_panel_4}, {many_rows_8, few_rows_8, one_row_8, one_panel_8},
    {many_rows_7, few_rows_7, one_row_7, one_panel_7},
};

/* Adds sums of one block, times both scales; where zero points differ, less their products with sums of inputs. */
QC_INLINE void finish_block(const qc_gemm_wna8_args *args, const ints *sums, reals *acc, size_t row, size_t panel,
                            size_t blocks, size_t g, int rows, int panels, int offset, int zeros) {
    const int wide = panels * QC_VECTORS;
    const float *input_scale = args->input_scale + row * blocks + g;
    const int32_t *input_sum = args->input_sum + row * blocks + g;
    reals scale[QC_MOST_WIDE];
    ints zero[QC_MOST_WIDE];
    QC_UNROLL for (int i = 0; i < wide; ++i) {
        const size_t p = panel + (size_t)(i / QC_VECTORS), at = (p * blocks + g) * QC_COLUMNS;
        scale[i] = load_reals(args->scale + at + i % QC_VECTORS * QC_LANES);
        zero[i] = all_ints(-offset);
        if (zeros) zero[i] = plus(zero[i], load_bytes(args->zero + at + i % QC_VECTORS * QC_LANES));
    }
    QC_UNROLL for (int r = 0; r < rows; ++r, input_scale += blocks, input_sum += blocks) {
        const reals given = all_reals(*input_scale);
        QC_UNROLL for (int i = 0; i < wide; ++i) {
            ints sum = sums[r * wide + i];
            if (zeros) sum = minus_product(sum, zero[i], all_ints(*input_sum));
            acc[r * wide + i] = fused(to_reals(sum), times(given, scale[i]), acc[r * wide + i]);
        }
    }
}

/* What stands in `out`, or the biases for the first block, of a tile that may end within its last panel. */
QC_INLINE void load_tile(const qc_gemm_wna8_args *args, reals *acc, size_t row, size_t panel, size_t first_block,
                         int rows, int panels) {
    const size_t first = panel * QC_COLUMNS, left = args->columns - first;
    const int wide = panels * QC_VECTORS;
    for (int r = 0; r < rows; ++r, acc += wide) {
        const float *out = args->out + (row + (size_t)r) * args->out_stride + first;
        const float *from = first_block > 0 ? out : args->bias ? args->bias + first : NULL;
        if (from && left >= (size_t)(wide * QC_LANES)) {
            QC_UNROLL for (int v = 0; v < wide; ++v) acc[v] = load_reals(from + v * QC_LANES);
        } else {
            QC_UNROLL for (int v = 0; v < wide; ++v) acc[v] = all_reals(0);
            if (from) memcpy(acc, from, left * sizeof(float));
        }
    }
}

QC_INLINE void store_tile(const qc_gemm_wna8_args *args, const reals *acc, size_t row, size_t panel, int rows,
                          int panels) {
    const size_t first = panel * QC_COLUMNS, left = args->columns - first;
    const int wide = panels * QC_VECTORS;
    for (int r = 0; r < rows; ++r, acc += wide) {
        float *out = args->out + (row + (size_t)r) * args->out_stride + first;
        if (left < (size_t)(wide * QC_LANES)) {
            memcpy(out, acc, left * sizeof(float));
        } else {
            QC_UNROLL for (int v = 0; v < wide; ++v) store_reals(out + v * QC_LANES, acc[v]);
        }
    }
}

QC_INLINE void tile_of(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t row, size_t panel,
                       int kind, unsigned bits, int rows, int panels) {
    const int offset = QC_OFFSET(bits);
    block_function *const sum = BLOCKS[bits == QC_BYTES ? 4 : bits == 8 ? 3 : bits - 2][kind];
    reals acc[QC_MOST_RESULTS];
    ints sums[QC_MOST_RESULTS];
    int32_t start[QC_ROWS];
    const uint8_t *codes = from->codes;
    load_tile(args, acc, row, panel, from->begin, rows, panels);
    for (size_t g = from->begin; g < from->end; ++g) {
        const size_t chunks = g + 1 < blocks ? from->full : from->last;
        for (int r = 0; r < rows; ++r)
            start[r] = args->zero ? 0 : (offset - args->common_zero) * args->input_sum[(row + (size_t)r) * blocks + g];
        sum(sums, start, from, codes, chunks, args->input + row * args->input_stride + g * args->block,
            args->input_stride);
        codes += chunks * from->chunk_bytes;
        if (args->zero)
            finish_block(args, sums, acc, row, panel, blocks, g, rows, panels, offset, 1);
        else
            finish_block(args, sums, acc, row, panel, blocks, g, rows, panels, offset, 0);
    }
    store_tile(args, acc, row, panel, rows, panels);
}

static void tile(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t row, size_t panel, int kind,
                 unsigned bits) {
    if (kind == MANY_ROWS)
        tile_of(args, from, blocks, row, panel, kind, bits, QC_ROWS, QC_MANY_PANELS);
    else if (kind == FEW_ROWS)
        tile_of(args, from, blocks, row, panel, kind, bits, QC_FEW_ROWS, QC_MANY_PANELS);
    else if (kind == ONE_ROW)
        tile_of(args, from, blocks, row, panel, kind, bits, 1, QC_PANELS);
    else
        tile_of(args, from, blocks, row, panel, kind, bits, 1, 1);
}

/* Codes are unpacked as they are multiplied. */
static stretch packed(const qc_gemm_wna8_args *args, const qc_division *d, size_t panel) {
    const size_t bytes = qc_panel_bytes(d);
    return (stretch){args->weight + panel * bytes, bytes, d->bytes, d->chunk, d->full, d->last, 0, d->blocks};
}

/* All rows of QC_MANY_PANELS panels. */
static void all_rows(const qc_gemm_wna8_args *args, const stretch *from, size_t blocks, size_t panel, unsigned bits) {
    size_t row = 0;
    for (; row + QC_ROWS <= args->rows; row += QC_ROWS) tile(args, from, blocks, row, panel, MANY_ROWS, bits);
    for (; row + QC_FEW_ROWS <= args->rows; row += QC_FEW_ROWS) tile(args, from, blocks, row, panel, FEW_ROWS, bits);
    const size_t step = QC_PANELS == QC_MANY_PANELS ? QC_PANELS : 1;
    stretch part = *from;
    for (size_t p = 0; p < QC_MANY_PANELS; p += step, part.codes += part.panel_bytes)
        for (size_t r = row; r < args->rows; ++r)
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

/* For many rows some blocks at a time are unpacked once to bytes that stay in the nearest cache. */
static void decoded_strip(const qc_gemm_wna8_args *args, const qc_division *d, size_t panel, unsigned bits) {
    const size_t each = d->chunk / QC_CHUNK, at_once = QC_DECODED / (d->full * d->chunk);
    uint8_t codes[QC_MANY_PANELS * QC_DECODED * QC_COLUMNS];
    const stretch whole = packed(args, d, panel);
    for (size_t g = 0; g < d->blocks; g += at_once) {
        const size_t end = g + at_once < d->blocks ? g + at_once : d->blocks;
        const size_t chunks = (end - g - 1) * d->full + (end == d->blocks ? d->last : d->full);
        const uint8_t *first = whole.codes + g * d->full * d->bytes;
        stretch from = {codes, QC_DECODED * QC_COLUMNS, QC_CHUNK * QC_COLUMNS, QC_CHUNK, d->full * each, d->last * each,
                        g,     end};
        for (size_t p = 0; p < QC_MANY_PANELS; ++p)
            decode_chunks(first + p * whole.panel_bytes, d->bytes, chunks, bits, codes + p * from.panel_bytes,
                          each * from.chunk_bytes);
        all_rows(args, &from, d->blocks, panel, QC_BYTES);
    }
}

void QC_KERNEL(const qc_gemm_wna8_args *args, size_t begin, size_t end) {
    const unsigned bits = (unsigned)args->bits;
    const qc_division d = qc_divide(args->depth, args->block, bits, QC_COLUMNS, QC_DEPTH);
    const int many = args->rows >= QC_FEW_ROWS;
    const int decoded = bits < 8 && args->rows >= QC_ROWS && d.full * d.chunk <= QC_DECODED;
    const size_t step = many ? QC_MANY_PANELS : QC_PANELS;
    size_t panel = begin;
    for (; panel + step <= end; panel += step) {
        const stretch from = packed(args, &d, panel);
        if (decoded) {
            decoded_strip(args, &d, panel, bits);
        } else if (many) {
            all_rows(args, &from, d.blocks, panel, bits);
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
