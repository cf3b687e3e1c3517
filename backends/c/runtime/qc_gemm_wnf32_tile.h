/* What the fast versions of qc_gemm_wnf32 share.
 *
 * A version defines the name of its function, QC_KERNEL, and
 *   QC_COLUMNS, QC_LANES   outputs of a panel and floats of a vector; QC_VECTORS vectors make a panel
 *   QC_ROWS, QC_FEW_ROWS   rows of the large and of the small tile
 *   QC_MANY_PANELS         panels beside each other in a tile
 *   QC_PANELS              panels beside each other for a single row
 *   words, reals           vector types
 *   level(words, bits)     the lowest field of each word as float
 *   entries                the values of a table, load_entries, and entry(entries, words, bits), its value for the
 *                          lowest field of each word
 *   next(words, bits)      the fields moved down by one
 *   quad                   four inputs of a row, and add_product(acc, weight, quad, lane)
 *   and the small operations on vectors that are used below.
 */
#ifndef QC_GEMM_WNF32_TILE_H
#define QC_GEMM_WNF32_TILE_H

#include "qc_gemm_wnf32.h"

#define QC_VECTORS (QC_COLUMNS / QC_LANES)
#define QC_WIDE (QC_COLUMNS * QC_MANY_PANELS)
#define QC_TABLED 16 /* added to bits: codes are places in a table */
#define QC_FIELD(bits) ((bits) % QC_TABLED)

/* One block of one vector of outputs. */
typedef struct {
    reals zero, scale;
} grid;

QC_INLINE grid grid_of(const qc_gemm_wnf32_args *args, size_t blocks, size_t panel, size_t g, int v) {
    const size_t at = (panel * blocks + g) * QC_COLUMNS + (size_t)v * QC_LANES;
    grid found = {all_reals((float)args->common_zero), load_reals(args->scale + at)};
    if (args->zero) found.zero = load_bytes(args->zero + at);
    return found;
}

QC_INLINE entries entries_of(const float *table, unsigned bits) {
    entries none = {0};
    return bits > QC_TABLED ? load_entries(table) : none;
}

QC_INLINE reals placed(words codes, unsigned bits, grid on, entries table) {
    if (bits > QC_TABLED) return times(entry(table, codes, QC_FIELD(bits)), on.scale);
    return times(minus(level(codes, bits), on.zero), on.scale);
}

/* The words of one chunk of one vector of outputs. */
QC_INLINE void load_chunk(const uint32_t *chunk, unsigned bits, words *left) {
    const int vectors = QC_FIELD(bits) == 3 ? 3 : (int)QC_FIELD(bits) / 2;
    QC_UNROLL for (int i = 0; i < vectors; ++i) left[i] = load_words(chunk + i * QC_COLUMNS);
}

/* The weights of input k of a chunk, k = 0, 1, ... in turn: fields that were used are shifted out of their words. */
QC_INLINE reals take_weight(words *left, unsigned bits, int k, grid on, entries table) {
    const unsigned field = QC_FIELD(bits);
    const int each = field == 3 ? 10 : 32 / (int)field;
    if (field == 3 && k == 30) return placed(with_third_bit(left[0], left[2]), bits, on, table);
    if (field == 3 && k == 31) return placed(with_third_bit(left[1], next(left[2], 1)), bits, on, table);
    const words codes = left[k / each];
    left[k / each] = next(codes, field);
    return placed(codes, bits, on, table);
}

/* Weights of one chunk of one vector of outputs to memory, a row of `step` floats for each input. */
QC_INLINE void decode(const uint32_t *chunk, unsigned bits, grid on, const float *table, float *to, size_t step) {
    const int inputs = QC_FIELD(bits) == 3 ? 32 : 16;
    const entries of = entries_of(table, bits);
    words left[4];
    load_chunk(chunk, bits, left);
    QC_UNROLL for (int k = 0; k < inputs; ++k) store_reals(to + (size_t)k * step, take_weight(left, bits, k, on, of));
}

/* Calls DO(bits) with constant bits. */
#define QC_FOR_BITS(bits, DO)    \
    switch (bits) {              \
    case 2:                      \
        DO(2);                   \
        break;                   \
    case 3:                      \
        DO(3);                   \
        break;                   \
    case 4:                      \
        DO(4);                   \
        break;                   \
    case QC_TABLED + 2:          \
        DO(QC_TABLED + 2);       \
        break;                   \
    case QC_TABLED + 3:          \
        DO(QC_TABLED + 3);       \
        break;                   \
    case QC_TABLED + 4:          \
        DO(QC_TABLED + 4);       \
        break;                   \
    default:                     \
        DO(8);                   \
    }

static void decode_bits(const uint32_t *chunk, unsigned bits, grid on, const float *table, float *to, size_t step) {
#define QC_DECODE(constant) decode(chunk, constant, on, table, to, step)
    QC_FOR_BITS(bits, QC_DECODE)
}

/* The last inputs of a block, which are less than a chunk, for a single row. */
static void add_tail(const qc_gemm_wnf32_args *args, const uint32_t *weight, size_t panel_words, size_t blocks,
                     size_t panel, size_t g, const float *input, int count, int vectors, unsigned bits, float *sums) {
    for (int i = 0; i < vectors; ++i) {
        const size_t p = (size_t)(i / QC_VECTORS);
        float weights[32 * QC_LANES];
        decode_bits(weight + p * panel_words + i % QC_VECTORS * QC_LANES, bits,
                    grid_of(args, blocks, panel + p, g, i % QC_VECTORS), args->table, weights, QC_LANES);
        reals acc = load_reals(sums + i * QC_LANES);
        for (int k = 0; k < count; ++k) acc = fused(all_reals(input[k]), load_reals(weights + k * QC_LANES), acc);
        store_reals(sums + i * QC_LANES, acc);
    }
}

/* A single row by `panels` panels. */
QC_INLINE void single(const qc_gemm_wnf32_args *args, const qc_division *d, size_t row, size_t panel, int panels,
                      unsigned bits) {
    const size_t panel_words = qc_panel_bytes(d) / 4, wide = (size_t)panels * QC_COLUMNS, first = panel * QC_COLUMNS;
    const size_t count = args->columns - first < wide ? args->columns - first : wide;
    const int vectors = panels * QC_VECTORS, inputs = QC_FIELD(bits) == 3 ? 32 : 16;
    const uint32_t *weight = args->weight + panel * panel_words;
    const entries table = entries_of(args->table, bits);
    float edge[QC_PANELS * QC_COLUMNS] = {0};
    reals acc[QC_PANELS * QC_VECTORS];
    if (args->bias) memcpy(edge, args->bias + first, count * sizeof(float));
    QC_UNROLL for (int i = 0; i < vectors; ++i) acc[i] = load_reals(edge + i * QC_LANES);
    for (size_t g = 0; g < d->blocks; ++g) {
        const float *input = args->input + row * args->input_stride + g * args->block;
        const size_t left = args->depth - g * args->block;
        size_t k = left < args->block ? left : args->block;
        for (; k > 0; weight += d->bytes / 4, input += inputs) {
            const int now = k < (size_t)inputs ? (int)k : inputs;
            k -= (size_t)now;
            if (now < inputs) {
                QC_UNROLL for (int i = 0; i < vectors; ++i) store_reals(edge + i * QC_LANES, acc[i]);
                add_tail(args, weight, panel_words, d->blocks, panel, g, input, now, vectors, bits, edge);
                QC_UNROLL for (int i = 0; i < vectors; ++i) acc[i] = load_reals(edge + i * QC_LANES);
                continue;
            }
            words left[QC_PANELS * QC_VECTORS][4];
            grid on[QC_PANELS * QC_VECTORS];
            QC_UNROLL for (int i = 0; i < vectors; ++i) {
                const size_t p = (size_t)(i / QC_VECTORS);
                on[i] = grid_of(args, d->blocks, panel + p, g, i % QC_VECTORS);
                load_chunk(weight + p * panel_words + i % QC_VECTORS * QC_LANES, bits, left[i]);
            }
            QC_UNROLL for (int j = 0; j < inputs; ++j) {
                const reals x = all_reals(input[j]);
                QC_UNROLL for (int i = 0; i < vectors; ++i)
                    acc[i] = fused(x, take_weight(left[i], bits, j, on[i], table), acc[i]);
            }
        }
    }
    QC_UNROLL for (int i = 0; i < vectors; ++i) store_reals(edge + i * QC_LANES, acc[i]);
    memcpy(args->out + row * args->out_stride + first, edge, count * sizeof(float));
}

/* Adds `count` inputs of `rows` rows to what stands in `out` ([rows][stride], or the biases for the first inputs). */
QC_INLINE void tile(const float *weights, const float *input, size_t stride, size_t count, const float *from,
                    size_t from_stride, float *out, size_t out_stride, int rows) {
    const int vectors = QC_MANY_PANELS * QC_VECTORS;
    reals acc[QC_ROWS * QC_MANY_PANELS * QC_VECTORS];
    QC_UNROLL for (int r = 0; r < rows; ++r) {
        QC_UNROLL for (int v = 0; v < vectors; ++v)
            acc[r * vectors + v] = load_reals(from + (size_t)r * from_stride + v * QC_LANES);
    }
    size_t k = 0;
    for (; k + 4 <= count; k += 4) {
        quad four[QC_ROWS];
        QC_UNROLL for (int r = 0; r < rows; ++r) four[r] = four_inputs(input + (size_t)r * stride + k);
        QC_UNROLL for (int i = 0; i < 4; ++i) {
            reals weight[QC_MANY_PANELS * QC_VECTORS];
            QC_UNROLL for (int v = 0; v < vectors; ++v)
                weight[v] = load_reals(weights + (k + (size_t)i) * QC_WIDE + v * QC_LANES);
            QC_UNROLL for (int r = 0; r < rows; ++r) {
                QC_UNROLL for (int v = 0; v < vectors; ++v)
                    acc[r * vectors + v] = add_product(acc[r * vectors + v], weight[v], four[r], i);
            }
        }
    }
    for (; k < count; ++k) {
        QC_UNROLL for (int r = 0; r < rows; ++r) {
            const reals x = all_reals(input[(size_t)r * stride + k]);
            QC_UNROLL for (int v = 0; v < vectors; ++v)
                acc[r * vectors + v] = fused(x, load_reals(weights + k * QC_WIDE + v * QC_LANES), acc[r * vectors + v]);
        }
    }
    QC_UNROLL for (int r = 0; r < rows; ++r) {
        QC_UNROLL for (int v = 0; v < vectors; ++v)
            store_reals(out + (size_t)r * out_stride + v * QC_LANES, acc[r * vectors + v]);
    }
}

/* The same for a strip that may end within its width: through memory of its own. */
static void tile_at(const qc_gemm_wnf32_args *args, const float *weights, size_t row, size_t panel, size_t k,
                    size_t count, int rows) {
    const size_t first = panel * QC_COLUMNS, stride = args->input_stride;
    const size_t wide = args->columns - first < QC_WIDE ? args->columns - first : QC_WIDE;
    const float *input = args->input + row * stride + k;
    float *out = args->out + row * args->out_stride + first;
    float edge[QC_ROWS * QC_WIDE];
    const int direct = wide == QC_WIDE && k > 0;
    for (int r = 0; r < rows && !direct; ++r) {
        float *line = edge + r * QC_WIDE;
        memset(line, 0, QC_WIDE * sizeof(float));
        const float *from = k > 0 ? out + (size_t)r * args->out_stride : args->bias ? args->bias + first : NULL;
        if (from) memcpy(line, from, wide * sizeof(float));
    }
    const float *from = direct ? out : edge;
    float *to = wide == QC_WIDE ? out : edge;
    const size_t from_stride = direct ? args->out_stride : QC_WIDE;
    const size_t to_stride = wide == QC_WIDE ? args->out_stride : QC_WIDE;
    switch (rows) {
    case QC_ROWS:
        tile(weights, input, stride, count, from, from_stride, to, to_stride, QC_ROWS);
        break;
    case QC_FEW_ROWS:
        tile(weights, input, stride, count, from, from_stride, to, to_stride, QC_FEW_ROWS);
        break;
    default:
        tile(weights, input, stride, count, from, from_stride, to, to_stride, 1);
    }
    for (int r = 0; r < rows && to == edge; ++r)
        memcpy(out + (size_t)r * args->out_stride, edge + r * QC_WIDE, wide * sizeof(float));
}

static void all_rows(const qc_gemm_wnf32_args *args, const float *weights, size_t panel, size_t k, size_t count) {
    size_t row = 0;
    for (; row + QC_ROWS <= args->rows; row += QC_ROWS) tile_at(args, weights, row, panel, k, count, QC_ROWS);
    for (; row + QC_FEW_ROWS <= args->rows; row += QC_FEW_ROWS)
        tile_at(args, weights, row, panel, k, count, QC_FEW_ROWS);
    for (; row < args->rows; ++row) tile_at(args, weights, row, panel, k, count, 1);
}

/* All rows of `panels` panels, at most QC_MANY_PANELS. */
static void strip(const qc_gemm_wnf32_args *args, const qc_division *d, size_t panel, int panels, unsigned bits) {
    const size_t panel_words = qc_panel_bytes(d) / 4;
    const uint32_t *weight = args->weight + panel * panel_words;
    float decoded[QC_DECODED * QC_WIDE];
    size_t start = 0, filled = 0;
    memset(decoded, 0, sizeof decoded);
    for (size_t k = 0; k < args->depth;) {
        const size_t g = k / args->block, next_block = (g + 1) * args->block;
        const size_t end = next_block < args->depth ? next_block : args->depth;
        const size_t now = end - k < d->chunk ? end - k : d->chunk;
        for (int i = 0; i < panels * QC_VECTORS; ++i) {
            const int p = i / QC_VECTORS, v = i % QC_VECTORS;
            decode_bits(weight + (size_t)p * panel_words + v * QC_LANES, bits,
                        grid_of(args, d->blocks, panel + (size_t)p, g, v), args->table,
                        decoded + filled * QC_WIDE + i * QC_LANES, QC_WIDE);
        }
        k += now, filled += now, weight += d->bytes / 4;
        if (k == args->depth || filled + d->chunk > QC_DECODED) {
            all_rows(args, decoded, panel, start, filled);
            start = k, filled = 0;
        }
    }
}

QC_INLINE void single_row(const qc_gemm_wnf32_args *args, const qc_division *d, size_t begin, size_t end,
                          unsigned bits) {
    size_t panel = begin;
    for (; panel + QC_PANELS <= end; panel += QC_PANELS) single(args, d, 0, panel, QC_PANELS, bits);
    for (; QC_PANELS > 1 && panel < end; ++panel) single(args, d, 0, panel, 1, bits);
}

void QC_KERNEL(const qc_gemm_wnf32_args *args, size_t begin, size_t end) {
    const unsigned bits = (unsigned)args->bits + (args->table ? QC_TABLED : 0);
    const qc_division d = qc_divide(args->depth, args->block, (unsigned)args->bits, QC_COLUMNS, 1);
    if (args->rows > 1) {
        for (size_t panel = begin; panel < end; panel += QC_MANY_PANELS)
            strip(args, &d, panel, end - panel < QC_MANY_PANELS ? (int)(end - panel) : QC_MANY_PANELS, bits);
    } else {
#define QC_SINGLE_ROW(constant) single_row(args, &d, begin, end, constant)
        QC_FOR_BITS(bits, QC_SINGLE_ROW)
    }
}

#endif
