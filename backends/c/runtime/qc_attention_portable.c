/* qc_attention on every level: both products in tiles of 4 rows and 64 or 16 columns. */
#include "qc_attention.h"
#include "qc_exp_lanes.h"
#include "qc_transpose.h"

#define QC_KEYS 64
#define QC_PART 32 /* of the sums over e: that much of the keys is turned at once */
#if defined(__AVX512F__)
#define QC_WIDE 4
#else
#define QC_WIDE 1
#endif

/* The rows of a task. */
typedef struct {
    const float *query[QC_ATTENTION_ROWS], *mask[QC_ATTENTION_ROWS];
    const uint8_t *keep[QC_ATTENTION_ROWS];
    float *out[QC_ATTENTION_ROWS];
    float largest[QC_ATTENTION_ROWS], total[QC_ATTENTION_ROWS];
    size_t seen[QC_ATTENTION_ROWS]; /* keys before that one */
    size_t count, most_seen;
    const float *key, *value;
} qc_rows;

/* c[r][16 p ..] goes on as a chain over k < depth of a[r][k] * b[k * b_row + p * b_panel ..]; constant rows, panels.
 * `columns` of c are written. */
QC_INLINE void qc_product(const float *const *a, const float *b, size_t b_row, size_t b_panel, size_t depth,
                          float *const *c, size_t at, size_t columns, size_t rows, size_t panels) {
    qc_lanes sum[4][QC_WIDE];
    QC_UNROLL for (size_t r = 0; r < rows; ++r) {
        QC_UNROLL for (size_t p = 0; p < panels; ++p)
            sum[r][p] = columns < QC_LANES ? qc_load_some(c[r] + at, columns, 0.0f) : qc_load(c[r] + at + p * QC_LANES);
    }
    for (size_t k = 0; k < depth; ++k) {
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
                     float *const *c, size_t columns) {                                                                \
        size_t at = 0;                                                                                                 \
        for (; at + QC_WIDE * QC_LANES <= columns; at += QC_WIDE * QC_LANES, b += QC_WIDE * b_panel)                   \
            qc_product(a, b, b_row, b_panel, depth, c, at, QC_LANES, rows, QC_WIDE);                                   \
        for (; at < columns; at += QC_LANES, b += b_panel)                                                             \
            qc_product(a, b, b_row, b_panel, depth, c, at, columns - at, rows, 1);                                     \
    }
QC_COLUMNS_OF(qc_four_rows, 4)
QC_COLUMNS_OF(qc_one_row, 1)

static void qc_all_rows(size_t count, const float *const *a, const float *b, size_t b_row, size_t b_panel, size_t depth,
                        float *const *c, size_t columns) {
    size_t r = 0;
    for (; r + 4 <= count; r += 4) qc_four_rows(a + r, b, b_row, b_panel, depth, c + r, columns);
    for (; r < count; ++r) qc_one_row(a + r, b, b_row, b_panel, depth, c + r, columns);
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

static void qc_scores(const qc_attention_args *args, const qc_rows *rows, size_t first, size_t count,
                      float *const *score) {
    float turned[QC_KEYS * QC_PART];
    for (size_t r = 0; r < rows->count; ++r)
        for (size_t s = 0; s < QC_KEYS; ++s) score[r][s] = 0.0f;
    for (size_t part = 0; part < args->depth; part += QC_PART) {
        const size_t rest = args->depth - part, depth = rest < QC_PART ? rest : QC_PART;
        const float *query[QC_ATTENTION_ROWS];
        for (size_t r = 0; r < rows->count; ++r) query[r] = rows->query[r] + part;
        qc_turn(args, rows->key + first * args->key_steps.row, count, part, depth, turned);
        qc_all_rows(rows->count, query, turned, QC_LANES, QC_PART * QC_LANES, depth, score, count);
    }
}

/* Scores become what the softmax is made of: scaled, masked, minus infinity where nothing is seen. */
static void qc_masked(const qc_attention_args *args, const qc_rows *rows, size_t r, size_t first, size_t count,
                      float *score) {
    const size_t seen = rows->seen[r] > first ? rows->seen[r] - first : 0;
    for (size_t s = 0; s < QC_KEYS; ++s) score[s] = score[s] * args->scale;
    if (args->mask) {
        const float *mask = rows->mask[r] + first;
        for (size_t s = 0; s < count; ++s) score[s] = score[s] + mask[s];
    }
    if (args->keep) {
        const uint8_t *keep = rows->keep[r] + first;
        for (size_t s = 0; s < count; ++s) score[s] = keep[s] ? score[s] : -INFINITY;
    }
    for (size_t s = seen < count ? seen : count; s < QC_KEYS; ++s) score[s] = -INFINITY;
}

/* Scores become weights, relative to the largest so far; what was summed before is brought to the same. */
static void qc_weigh(const qc_attention_args *args, qc_rows *rows, size_t r, float *score) {
    qc_lanes most = qc_splat(rows->largest[r]), sum = qc_splat(0.0f);
    for (size_t s = 0; s < QC_KEYS; s += QC_LANES) most = qc_at_least(most, qc_load(score + s));
    const float largest = qc_largest(most), level = largest == -INFINITY ? 0.0f : largest;
    for (size_t s = 0; s < QC_KEYS; s += QC_LANES) {
        const qc_lanes p = qc_exp_lanes(qc_minus(qc_load(score + s), qc_splat(level)));
        qc_store(score + s, p);
        sum = qc_plus(sum, p);
    }
    if (largest != rows->largest[r]) {
        const float weight = qc_exp(rows->largest[r] - level);
        rows->total[r] = rows->total[r] * weight;
        qc_row_times(rows->out[r], args->width, weight);
    }
    rows->total[r] = rows->total[r] + qc_total(sum);
    rows->largest[r] = largest;
}

static void qc_attend(const qc_attention_args *args, qc_rows *rows) {
    float block[QC_ATTENTION_ROWS * QC_KEYS], *score[QC_ATTENTION_ROWS];
    for (size_t r = 0; r < rows->count; ++r) {
        score[r] = block + r * QC_KEYS;
        rows->largest[r] = -INFINITY;
        rows->total[r] = 0.0f;
        for (size_t f = 0; f < args->width; ++f) rows->out[r][f] = 0.0f;
    }
    for (size_t first = 0; first < rows->most_seen; first += QC_KEYS) {
        const size_t rest = rows->most_seen - first, count = rest < QC_KEYS ? rest : QC_KEYS;
        qc_scores(args, rows, first, count, score);
        for (size_t r = 0; r < rows->count; ++r) {
            qc_masked(args, rows, r, first, count, score[r]);
            qc_weigh(args, rows, r, score[r]);
        }
        qc_all_rows(rows->count, (const float *const *)score, rows->value + first * args->value_steps.row,
                    args->value_steps.row, QC_LANES, count, rows->out, args->width);
    }
    for (size_t r = 0; r < rows->count; ++r) {
        const float inverse = 1.0f / (rows->total[r] == 0.0f ? 1.0f : rows->total[r]);
        qc_row_times(rows->out[r], args->width, inverse);
    }
}

static void qc_row(const qc_attention_args *args, qc_rows *rows, size_t batch, size_t head, size_t l) {
    const size_t r = rows->count++;
    const qc_attention_steps *q = &args->query_steps, *o = &args->out_steps, *m = &args->mask_steps;
    const qc_attention_steps *k = &args->keep_steps;
    const size_t seen = args->causal && l + args->past + 1 < args->keys ? l + args->past + 1 : args->keys;
    rows->query[r] = args->query + batch * q->batch + head * q->head + l * q->row;
    rows->out[r] = args->out + batch * o->batch + head * o->head + l * o->row;
    rows->mask[r] = args->mask ? args->mask + batch * m->batch + head * m->head + l * m->row : NULL;
    rows->keep[r] = args->keep ? args->keep + batch * k->batch + head * k->head + l * k->row : NULL;
    rows->seen[r] = seen;
    if (seen > rows->most_seen) rows->most_seen = seen;
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
        qc_attend(args, &rows);
    }
}
