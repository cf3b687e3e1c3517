/* qc_attention on every level: both products in tiles of 8 rows and 32 columns, or of 4 and 16. */
#include "qc_attention.h"
#include "qc_exp_lanes.h"
#include "qc_transpose.h"

#define QC_KEYS 64
#define QC_PART 32 /* of the sums over e: that much of the keys is turned at once */
#if defined(__AVX512F__)
#define QC_TALL 8 /* 16 chains side by side: twice what four cycles of latency and two units take */
#define QC_WIDE 2
#else
#define QC_TALL 4
#define QC_WIDE 1
#endif
#define QC_FEW 2 /* rows that are not worth a tile */

/* The rows of a task; behind them the last one again, so that tiles are whole. */
typedef struct {
    const float *query[QC_ATTENTION_ROWS], *mask[QC_ATTENTION_ROWS];
    const uint8_t *keep[QC_ATTENTION_ROWS];
    float *out[QC_ATTENTION_ROWS], *score[QC_ATTENTION_ROWS];
    float largest[QC_ATTENTION_ROWS], total[QC_ATTENTION_ROWS];
    float scale[QC_ATTENTION_ROWS]; /* of what was summed before a block */
    size_t seen[QC_ATTENTION_ROWS]; /* keys before that one */
    size_t count, most_seen;
    const float *key, *value;
} qc_rows;

/* c[r][16 p ..] = a chain over k < depth of a[r][k] * b[k * b_row + p * b_panel ..] from c times scale[r], or from 0
 * where there is no scale; constant rows, panels. `columns` of c are written. */
QC_INLINE void qc_product(const float *const *a, const float *b, size_t b_row, size_t b_panel, size_t depth,
                          float *const *c, const float *scale, size_t at, size_t columns, size_t rows, size_t panels) {
    qc_lanes sum[QC_TALL][QC_WIDE];
    QC_UNROLL for (size_t r = 0; r < rows; ++r) {
        QC_UNROLL for (size_t p = 0; p < panels; ++p) sum[r][p] = qc_splat(0.0f);
    }
    if (scale) {
        QC_UNROLL for (size_t r = 0; r < rows; ++r) {
            QC_UNROLL for (size_t p = 0; p < panels; ++p) {
                const float *from = c[r] + at + p * QC_LANES;
                const qc_lanes before = columns < QC_LANES ? qc_load_some(from, columns, 0.0f) : qc_load(from);
                sum[r][p] = qc_times(before, qc_splat(scale[r]));
            }
        }
    }
    QC_ROLLED for (size_t k = 0; k < depth; ++k) {
        qc_lanes w[QC_WIDE];
        QC_UNROLL for (size_t p = 0; p < panels; ++p) w[p] = qc_load(b + k * b_row + p * b_panel);
        QC_UNROLL for (size_t r = 0; r < rows; ++r) {
            const qc_lanes one = qc_splat(a[r][k]);
            QC_UNROLL for (size_t p = 0; p < panels; ++p) sum[r][p] = qc_fma(one, w[p], sum[r][p]);
        }
    }
    QC_UNROLL for (size_t r = 0; r < rows; ++r) {
        QC_UNROLL for (size_t p = 0; p < panels; ++p) {
            if (columns < QC_LANES)
                qc_store_some(c[r] + at, columns, sum[r][p]);
            else
                qc_store(c[r] + at + p * QC_LANES, sum[r][p]);
        }
    }
}

/* All columns of some rows. */
#define QC_COLUMNS_OF(name, rows)                                                                                      \
    static void name(const float *const *a, const float *b, size_t b_row, size_t b_panel, size_t depth,                \
                     float *const *c, const float *scale, size_t columns) {                                            \
        size_t at = 0;                                                                                                 \
        for (; at + QC_WIDE * QC_LANES <= columns; at += QC_WIDE * QC_LANES, b += QC_WIDE * b_panel)                   \
            qc_product(a, b, b_row, b_panel, depth, c, scale, at, QC_LANES, rows, QC_WIDE);                            \
        for (; at + QC_LANES <= columns; at += QC_LANES, b += b_panel)                                                 \
            qc_product(a, b, b_row, b_panel, depth, c, scale, at, QC_LANES, rows, 1);                                  \
        if (at < columns) qc_product(a, b, b_row, b_panel, depth, c, scale, at, columns - at, rows, 1);                \
    }
QC_COLUMNS_OF(qc_tall, QC_TALL)
QC_COLUMNS_OF(qc_one_row, 1)

/* Tiles of rows; what is computed twice in the last one is loaded before, and stored after, all of it. */
static void qc_all_rows(size_t count, const float *const *a, const float *b, size_t b_row, size_t b_panel, size_t depth,
                        float *const *c, const float *scale, size_t columns) {
    size_t r = 0;
    for (; r + QC_FEW < count; r += QC_TALL)
        qc_tall(a + r, b, b_row, b_panel, depth, c + r, scale ? scale + r : NULL, columns);
    for (; r < count; ++r) qc_one_row(a + r, b, b_row, b_panel, depth, c + r, scale ? scale + r : NULL, columns);
}

/* Inputs `part` and on of `count` keys, input after input; the lanes of missing keys repeat the last one. */
static void qc_turn(const qc_attention_args *args, const float *key, size_t count, size_t part, size_t depth,
                    float *turned) {
    for (size_t s = 0; s < count; s += QC_LANES) {
        const float *from[QC_LANES];
        for (size_t i = 0; i < QC_LANES; ++i)
            from[i] = key + (s + i < count ? s + i : count - 1) * args->key_steps.row + part;
        for (size_t e = 0; e < depth; e += QC_LANES) qc_transpose(from, e, turned + s * QC_PART + e * QC_LANES);
    }
}

static void qc_scores(const qc_attention_args *args, const qc_rows *rows, size_t first, size_t count) {
    float turned[QC_KEYS * QC_PART], ones[QC_ATTENTION_ROWS];
    for (size_t r = 0; r < QC_ATTENTION_ROWS; ++r) ones[r] = 1.0f;
    for (size_t part = 0; part < args->depth; part += QC_PART) {
        const size_t rest = args->depth - part, depth = rest < QC_PART ? rest : QC_PART;
        const size_t columns = (count + QC_LANES - 1) / QC_LANES * QC_LANES;
        const float *query[QC_ATTENTION_ROWS];
        for (size_t r = 0; r < QC_ATTENTION_ROWS; ++r) query[r] = rows->query[r] + part;
        qc_turn(args, rows->key + first * args->key_steps.row, count, part, depth, turned);
        qc_all_rows(rows->count, query, turned, QC_LANES, QC_PART * QC_LANES, depth, rows->score, part ? ones : NULL,
                    columns);
    }
}

/* What the mask adds, and what it hides. */
static void qc_masked(const qc_attention_args *args, const qc_rows *rows, size_t r, size_t first, size_t count) {
    float *score = rows->score[r];
    for (size_t s = 0; s < count; ++s) score[s] = score[s] * args->scale;
    if (args->mask) {
        const float *mask = rows->mask[r] + first;
        for (size_t s = 0; s < count; ++s) score[s] = score[s] + mask[s];
    }
    if (args->keep) {
        const uint8_t *keep = rows->keep[r] + first;
        for (size_t s = 0; s < count; ++s) score[s] = keep[s] ? score[s] : -INFINITY;
    }
}

/* Scores of a row become weights, relative to the largest so far; `seen` of them are. Returns their sum in lanes, and
 * the largest there. */
QC_INLINE qc_lanes qc_weigh(float *score, float scale, size_t seen, size_t panels, float *largest) {
    qc_lanes x[QC_KEYS / QC_LANES], most = qc_splat(*largest), sum = qc_splat(0.0f);
    QC_UNROLL for (size_t p = 0; p < panels; ++p) {
        x[p] = qc_times(qc_load(score + p * QC_LANES), qc_splat(scale));
        if (p + 1 == panels && seen < panels * QC_LANES) x[p] = qc_some(x[p], seen - p * QC_LANES, -INFINITY);
        most = qc_at_least(most, x[p]);
    }
    *largest = qc_largest(most);
    const qc_lanes level = qc_splat(*largest == -INFINITY ? 0.0f : *largest);
    QC_UNROLL for (size_t p = 0; p < panels; ++p) {
        const qc_lanes weight = qc_exp_lanes(qc_minus(x[p], level));
        qc_store(score + p * QC_LANES, weight);
        sum = qc_plus(sum, weight);
    }
    QC_UNROLL for (size_t p = panels; p < QC_KEYS / QC_LANES; ++p) qc_store(score + p * QC_LANES, qc_splat(0.0f));
    return sum;
}

/* A row of a block. Panels of keys that it does not see have no weight. */
static void qc_weigh_row(const qc_attention_args *args, qc_rows *rows, size_t r, size_t first, size_t count,
                         float *sum) {
    const size_t left = rows->seen[r] > first ? rows->seen[r] - first : 0, seen = left < count ? left : count;
    float scale = args->scale, *score = rows->score[r];
    qc_lanes lanes = qc_splat(0.0f);
    if (args->mask || args->keep) {
        qc_masked(args, rows, r, first, count);
        scale = 1.0f;
    }
    switch ((seen + QC_LANES - 1) / QC_LANES) {
    case 4: lanes = qc_weigh(score, scale, seen, 4, &rows->largest[r]); break;
    case 3: lanes = qc_weigh(score, scale, seen, 3, &rows->largest[r]); break;
    case 2: lanes = qc_weigh(score, scale, seen, 2, &rows->largest[r]); break;
    case 1: lanes = qc_weigh(score, scale, seen, 1, &rows->largest[r]); break;
    default: qc_weigh(score, scale, seen, 0, &rows->largest[r]);
    }
    *sum = qc_total(lanes);
}

/* Scores become weights; what was summed before is to be brought to the same level by `rows->scale`. */
static void qc_weigh_all(const qc_attention_args *args, qc_rows *rows, size_t first, size_t count) {
    float before[QC_ATTENTION_ROWS], sum[QC_ATTENTION_ROWS];
    memcpy(before, rows->largest, sizeof before);
    for (size_t r = 0; r < rows->count; ++r) qc_weigh_row(args, rows, r, first, count, sum + r);
    for (size_t r = rows->count; r < QC_ATTENTION_ROWS; ++r) {
        rows->largest[r] = rows->largest[rows->count - 1];
        before[r] = before[rows->count - 1];
        sum[r] = sum[rows->count - 1];
    }
    for (size_t r = 0; r < QC_ATTENTION_ROWS; ++r)
        before[r] = before[r] - (rows->largest[r] == -INFINITY ? 0.0f : rows->largest[r]);
    for (size_t r = 0; r < QC_ATTENTION_ROWS; r += QC_LANES) {
        const qc_lanes scale = qc_exp_lanes(qc_load(before + r));
        qc_store(rows->scale + r, scale);
        qc_store(rows->total + r, qc_plus(qc_times(qc_load(rows->total + r), scale), qc_load(sum + r)));
    }
}

static void qc_attend(const qc_attention_args *args, qc_rows *rows) {
    float block[QC_ATTENTION_ROWS * QC_KEYS];
    for (size_t r = 0; r < QC_ATTENTION_ROWS; ++r) {
        rows->score[r] = block + (r < rows->count ? r : rows->count - 1) * QC_KEYS;
        rows->largest[r] = -INFINITY;
        rows->total[r] = 0.0f;
    }
    for (size_t first = 0; first < rows->most_seen; first += QC_KEYS) {
        const size_t rest = rows->most_seen - first, count = rest < QC_KEYS ? rest : QC_KEYS;
        qc_scores(args, rows, first, count);
        qc_weigh_all(args, rows, first, count);
        qc_all_rows(rows->count, (const float *const *)rows->score, rows->value + first * args->value_steps.row,
                    args->value_steps.row, QC_LANES, count, rows->out, first ? rows->scale : NULL, args->width);
    }
    for (size_t r = 0; r < rows->count; ++r) {
        if (!rows->most_seen) memset(rows->out[r], 0, args->width * sizeof(float));
        qc_row_times(rows->out[r], args->width, 1.0f / (rows->total[r] == 0.0f ? 1.0f : rows->total[r]));
    }
}

/* Keys up to the last one that is kept. */
static size_t qc_kept(const uint8_t *keep, size_t seen) {
    uint64_t eight;
    for (; seen >= sizeof eight; seen -= sizeof eight) {
        memcpy(&eight, keep + seen - sizeof eight, sizeof eight);
        if (eight) break;
    }
    while (seen && !keep[seen - 1]) --seen;
    return seen;
}

/* Keys up to the last one whose score is not minus infinity whatever it was. */
static size_t qc_above(const float *mask, size_t seen) {
    for (; seen >= QC_LANES; seen -= QC_LANES) {
        int above = 0;
        for (size_t i = 1; i <= QC_LANES; ++i) above |= mask[seen - i] != -INFINITY;
        if (above) break;
    }
    while (seen && mask[seen - 1] == -INFINITY) --seen;
    return seen;
}

/* Keys up to the last one with a weight; rows of heads that share a mask see the same. */
static size_t qc_last_seen(const qc_attention_args *args, const qc_rows *rows, size_t r, size_t l) {
    const int same = r && !args->causal && rows->keep[r] == rows->keep[r - 1] && rows->mask[r] == rows->mask[r - 1];
    size_t seen = args->causal && l + args->past + 1 < args->keys ? l + args->past + 1 : args->keys;
    if (same) return rows->seen[r - 1];
    if (args->keep) seen = qc_kept(rows->keep[r], seen);
    return args->mask ? qc_above(rows->mask[r], seen) : seen;
}

static void qc_row(const qc_attention_args *args, qc_rows *rows, size_t batch, size_t head, size_t l) {
    const size_t r = rows->count++;
    const qc_attention_steps *q = &args->query_steps, *o = &args->out_steps, *m = &args->mask_steps;
    const qc_attention_steps *k = &args->keep_steps;
    rows->query[r] = args->query + batch * q->batch + head * q->head + l * q->row;
    rows->out[r] = args->out + batch * o->batch + head * o->head + l * o->row;
    rows->mask[r] = args->mask ? args->mask + batch * m->batch + head * m->head + l * m->row : NULL;
    rows->keep[r] = args->keep ? args->keep + batch * k->batch + head * k->head + l * k->row : NULL;
    rows->seen[r] = qc_last_seen(args, rows, r, l);
    if (rows->seen[r] > rows->most_seen) rows->most_seen = rows->seen[r];
}

void qc_attention_portable(const qc_attention_args *args, size_t begin, size_t end) {
    const size_t all = args->shared * args->length, tiles = (all + QC_ATTENTION_ROWS - 1) / QC_ATTENTION_ROWS;
    for (size_t task = begin; task < end; ++task) {
        const size_t first = task % tiles * QC_ATTENTION_ROWS, group = task / tiles;
        const size_t batch = group / args->key_heads, key_head = group % args->key_heads;
        qc_rows rows;
        rows.count = rows.most_seen = 0;
        rows.key = args->key + batch * args->key_steps.batch + key_head * args->key_steps.head;
        rows.value = args->value + batch * args->value_steps.batch + key_head * args->value_steps.head;
        for (size_t i = first; i < all && i < first + QC_ATTENTION_ROWS; ++i)
            qc_row(args, &rows, batch, key_head * args->shared + i / args->length, i % args->length);
        for (size_t r = rows.count; r < QC_ATTENTION_ROWS; ++r) {
            rows.query[r] = rows.query[rows.count - 1];
            rows.out[r] = rows.out[rows.count - 1];
        }
        qc_attend(args, &rows);
    }
}
