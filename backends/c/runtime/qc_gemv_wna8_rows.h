/* What the fast versions of qc_gemv_wna8 share: tables are made for some blocks of a row, which all panels then read.
 *
 * A version defines `make_tables` and `add_blocks`.
 */
#ifndef QC_GEMV_WNA8_ROWS_H
#define QC_GEMV_WNA8_ROWS_H

#include "qc_gemv_wna8.h"

#define QC_GEMV_TABLES 32 /* bytes of the tables of one group */

/* Blocks of one row whose tables are made. */
typedef struct {
    const qc_gemv_wna8_args *args;
    qc_gemv_division division;
    size_t row, begin, end;
    const uint8_t *tables;
} stretch;

/* Tables of some groups, a multiple of four. */
static void make_tables(const int8_t *input, size_t groups, uint8_t *to);
/* Adds what the blocks of a stretch make to the results of a panel. */
static void add_blocks(const stretch *s, size_t panel, float *results);

/* One panel: what stands in `out`, or the biases before the first block, and what the blocks add. */
static void add_panel(const stretch *s, size_t panel) {
    const qc_gemv_wna8_args *args = s->args;
    const size_t first = panel * QC_GEMV_PANEL, left = args->columns - first;
    const size_t count = left < QC_GEMV_PANEL ? left : QC_GEMV_PANEL;
    float *out = args->out + s->row * args->out_stride + first;
    const float *from = s->begin > 0 ? out : args->bias ? args->bias + first : NULL;
    float results[QC_GEMV_PANEL] = {0};
    if (from) memcpy(results, from, count * sizeof *results);
    add_blocks(s, panel, results);
    memcpy(out, results, count * sizeof *results);
}

/* All rows of panels [begin, end). */
static void by_rows(const qc_gemv_wna8_args *args, size_t begin, size_t end) {
    uint8_t made[QC_GEMV_BLOCK / 4 * QC_GEMV_TABLES];
    stretch s = {args, qc_gemv_divide(args), 0, 0, 0, made};
    const size_t full = s.division.full, last = s.division.last, blocks = s.division.blocks;
    const size_t at_once = QC_GEMV_BLOCK / 4 / full;
    for (s.row = 0; s.row < args->rows; ++s.row) {
        const int8_t *input = args->input + s.row * args->input_stride;
        for (s.begin = 0; s.begin < blocks; s.begin = s.end) {
            s.end = s.begin + at_once < blocks ? s.begin + at_once : blocks;
            for (size_t g = s.begin; g < s.end; ++g)
                make_tables(input + g * args->block, g + 1 < blocks ? full : last,
                            made + (g - s.begin) * full * QC_GEMV_TABLES);
            for (size_t panel = begin; panel < end; ++panel) add_panel(&s, panel);
        }
    }
}

#endif
