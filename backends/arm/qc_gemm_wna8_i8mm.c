/* smmla multiplies two rows of eight inputs by two outputs of as many codes: 32 MAC.
 *
 * Large tile, 8 rows by one panel of 8 outputs: for every 8 inputs 16 smmla, 2 loads of pairs of weights and 2 of pairs
 * of activations, which makes 25.6 MAC per instruction. Rows lie apart in memory, so some of them are gathered in pairs
 * once for all panels, and weights of those inputs are unpacked once for all of these rows. Blocks of more inputs than
 * that are unpacked, and their rows paired, as they are multiplied.
 *
 * A single row is multiplied by sdot, its inputs doubled: a sum holds halves of two outputs.
 */
#include <arm_neon.h>

#define QC_COLUMNS 8
#define QC_DEPTH 8
#define QC_LANES 4
#define QC_ROWS 8
#define QC_FEW_ROWS 4
#define QC_MANY_PANELS 1
#define QC_PANELS 4
#define QC_GATHERS 1
#define QC_MOST_SUMS 16
#define QC_DECODED 1536
#define QC_SUMS(bits, rows) ((void)(bits), (rows) > 1 ? 1 : 2)

#include "qc_gemm_wna8_arm.h"
#include "qc_order_neon.h"

enum { GATHERED = 72 * 1024 }; /* bytes of gathered rows */

QC_INLINE int64x2_t halves(ints x) { return vreinterpretq_s64_s32(x); }
QC_INLINE ints lower(ints x, ints y) { return vreinterpretq_s32_s64(vzip1q_s64(halves(x), halves(y))); }
QC_INLINE ints upper(ints x, ints y) { return vreinterpretq_s32_s64(vzip2q_s64(halves(x), halves(y))); }

/* Of two rows and four outputs: a vector of each row, or one of each pair of outputs. */
QC_INLINE void turn(ints *sums, int rows, int wide) {
    QC_UNROLL for (int r = 0; r < rows; r += 2) {
        QC_UNROLL for (int i = 0; i < wide; ++i) {
            ints *first = sums + r * wide + i, *second = first + wide;
            const ints x = *first, y = *second;
            *first = lower(x, y), *second = upper(x, y);
        }
    }
}

QC_INLINE void set_sums(ints *sums, ints x, int count) {
    sums[0] = count > 1 ? vtrn1q_s32(x, vdupq_n_s32(0)) : x;
    if (count > 1) sums[1] = sums[0];
}

QC_INLINE ints fold(const ints *sums, unsigned bits, int rows) {
    (void)bits;
    return rows > 1 ? sums[0] : vpaddq_s32(sums[0], sums[1]);
}

/* Sums of pairs of rows r, r + 1 lie at r * 2 and (r + 1) * 2: of outputs 0 1 and 4 5, of outputs 2 3 and 6 7. */
QC_INLINE void add_pair(ints *sums, const int8x16_t *codes, int8x16_t pair) {
    sums[0] = vmmlaq_s32(sums[0], pair, codes[0]);
    sums[2] = vmmlaq_s32(sums[2], pair, codes[1]);
    sums[1] = vmmlaq_s32(sums[1], pair, codes[2]);
    sums[3] = vmmlaq_s32(sums[3], pair, codes[3]);
}

/* One run of rows that were gathered. */
QC_INLINE void gathered_run(ints *sums, const uint8_t *codes, const int8_t *input, int rows) {
    int8x16_t w[4], a[QC_ROWS / 2];
    QC_UNROLL for (int i = 0; i < 4; ++i) w[i] = vld1q_s8((const int8_t *)codes + 16 * i);
    QC_UNROLL for (int p = 0; p < QC_ROWS / 2; ++p) a[p] = vld1q_s8(input + 16 * (p < rows / 2 ? p : 0));
    QC_LOADED(w);
    QC_LOADED(a);
    QC_UNROLL for (int p = 0; p < rows / 2; ++p) add_pair(sums + 4 * p, w, a[p]);
    QC_UNROLL for (int p = 0; p < rows / 2; ++p) QC_SUMMED(sums + 4 * p);
}

/* Two runs of codes; compilers load those of four bits in pairs when they are told to. */
QC_INLINE void codes_of_runs(const uint8_t *chunk, unsigned bits, int run, int8x16_t *codes) {
    if (bits == 4) {
        uint8x16_t bytes[4];
        QC_UNROLL for (int i = 0; i < 4; ++i) bytes[i] = vld1q_u8(chunk + run / 2 * QC_RUN + 16 * i);
        QC_LOADED(bytes);
        QC_UNROLL for (int i = 0; i < 8; ++i) codes[i] = vreinterpretq_s8_u8(field(bytes[i % 4], i / 4 * 4, 4));
        return;
    }
    QC_UNROLL for (int i = 0; i < 8; ++i) codes[i] = codes_of(chunk, bits, run + i / 4, i % 4);
}

/* Two runs of rows that lie apart, and of codes as they are stored. */
QC_INLINE void packed_runs(ints *sums, const uint8_t *chunk, const int8_t *input, size_t stride, int rows,
                           unsigned bits, int run) {
    int8x16_t w[8];
    codes_of_runs(chunk, bits, run, w);
    QC_UNROLL for (int r = 0; r < rows; r += 2) {
        const int8_t *at = input + (size_t)r * stride + run * QC_DEPTH;
        const ints x = vreinterpretq_s32_s8(vld1q_s8(at)), y = vreinterpretq_s32_s8(vld1q_s8(at + stride));
        add_pair(sums + 2 * r, w, vreinterpretq_s8_s32(lower(x, y)));
        add_pair(sums + 2 * r, w + 4, vreinterpretq_s8_s32(upper(x, y)));
    }
}

/* Two runs of a single row. */
QC_INLINE void row_runs(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, int panels,
                        unsigned bits, int run) {
    const int64x2_t both = vreinterpretq_s64_s8(vld1q_s8(input + run * QC_DEPTH));
    const int8x16_t inputs[2] = {vreinterpretq_s8_s64(vdupq_laneq_s64(both, 0)),
                                 vreinterpretq_s8_s64(vdupq_laneq_s64(both, 1))};
    QC_UNROLL for (int p = 0; p < panels; ++p) {
        int8x16_t codes[8];
        codes_of_runs(weight + (size_t)p * panel_bytes, bits, run, codes);
        QC_UNROLL for (int i = 0; i < 8; ++i)
            sums[p * 4 + i % 4] = vdotq_s32(sums[p * 4 + i % 4], codes[i], inputs[i / 4]);
    }
}

QC_INLINE void chunk(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                     int rows, int panels, unsigned bits) {
    const int runs = bits == 3 ? 8 : 4;
    QC_UNROLL for (int run = 0; run < runs; run += 2) {
        if (rows > 1 && bits == 7) {
            QC_UNROLL for (int i = run; i < run + 2; ++i)
                gathered_run(sums, weight + i * QC_RUN, input + i * QC_DEPTH * rows, rows);
        } else if (rows > 1) {
            packed_runs(sums, weight, input, stride, rows, bits, run);
        } else {
            row_runs(sums, weight, panel_bytes, input, panels, bits, run);
        }
    }
}

#include "qc_gemm_wna8_tile.h"

/* Inputs of blocks [begin, end), each filled to whole chunks. */
static size_t filled_inputs(const qc_division *d, size_t begin, size_t end) {
    return ((end - begin - 1) * d->full + (end == d->blocks ? d->last : d->full)) * d->chunk;
}

/* A tile of rows: of every block and every eight inputs each pair of rows side by side. */
static void gather_tile(const qc_gemm_wna8_args *args, const qc_division *d, size_t row, size_t rows, size_t begin,
                        size_t end, int8_t *to) {
    const size_t stride = args->input_stride;
    for (size_t g = begin; g < end; ++g) {
        const int8_t *first = args->input + row * stride + g * args->block;
        const size_t count = filled_inputs(d, g, g + 1);
        for (size_t k = 0; k < count; k += 2 * QC_DEPTH, to += 2 * QC_DEPTH * rows) {
            for (size_t r = 0; r < rows; r += 2) {
                const ints x = vreinterpretq_s32_s8(vld1q_s8(first + r * stride + k));
                const ints y = vreinterpretq_s32_s8(vld1q_s8(first + (r + 1) * stride + k));
                vst1q_s8(to + r * QC_DEPTH, vreinterpretq_s8_s32(lower(x, y)));
                vst1q_s8(to + (rows + r) * QC_DEPTH, vreinterpretq_s8_s32(upper(x, y)));
            }
        }
    }
}

/* All tiles of rows [row, end); those of the last, too few for a tile, are not gathered. */
static void gather(const qc_gemm_wna8_args *args, const qc_division *d, size_t row, size_t rows, size_t begin,
                   size_t end, int8_t *to) {
    const size_t inputs = filled_inputs(d, begin, end);
    for (; rows >= QC_ROWS; row += QC_ROWS, rows -= QC_ROWS, to += QC_ROWS * inputs)
        gather_tile(args, d, row, QC_ROWS, begin, end, to);
    if (rows >= QC_FEW_ROWS) gather_tile(args, d, row, QC_FEW_ROWS, begin, end, to);
}

/* Some blocks of some rows at a time, by every panel. */
static void by_gathered(const qc_gemm_wna8_args *args, const qc_division *d, size_t first, size_t last) {
    const size_t full = d->full * d->chunk, at_once = QC_DECODED / full;
    int8_t gathered[GATHERED];
    uint8_t codes[QC_DECODED * QC_COLUMNS];
    for (size_t g = 0; g < d->blocks; g += at_once) {
        const size_t end = qc_smaller(g + at_once, d->blocks), inputs = filled_inputs(d, g, end);
        const size_t step = GATHERED / inputs / QC_ROWS * QC_ROWS;
        for (size_t row = 0; row < args->rows; row += step) {
            const size_t rows = qc_smaller(step, args->rows - row);
            gather(args, d, row, rows, g, end, gathered);
            for (size_t panel = first; panel < last; ++panel) {
                stretch from = decoded(args, d, panel, g, end, (unsigned)args->bits, codes);
                from.gathered = gathered, from.first_row = row, from.gathered_inputs = inputs;
                some_rows(args, &from, d->blocks, row, row + rows, panel, QC_BYTES);
            }
        }
    }
}

void qc_gemm_wna8_i8mm(const qc_gemm_wna8_args *args, size_t begin, size_t end) {
    const qc_division d = qc_divide(args->depth, args->block, (unsigned)args->bits, QC_COLUMNS, QC_DEPTH);
    if (args->bits < 8 && args->rows >= QC_ROWS && d.full * d.chunk <= QC_DECODED)
        by_gathered(args, &d, begin, end);
    else
        by_panels(args, begin, end);
}
