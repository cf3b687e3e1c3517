/* qc_gemm_codebook on every level. */
#include "qc_gemm_codebook.h"

enum {
    ENTRIES = 256, /* whose products with a row are held at a time */
    TOGETHER = 4,  /* tables of products, so that sums are loaded and stored once for all of them */
    FEW_ROWS = 4,  /* multiplied one after the other */
    WIDE = 1024,   /* columns at a time of one row */
    NARROW = 192,  /* and of sixteen */
};

/* Columns [first, first + count) of all vectors of a row. */
typedef struct {
    const qc_gemm_codebook_args *args;
    size_t vectors, row_bytes; /* of codes */
    size_t first, count;
} qc_columns;

static qc_columns all_columns(const qc_gemm_codebook_args *args, size_t begin, size_t end) {
    const size_t padded = (args->columns + QC_CODEBOOK_COLUMNS - 1) / QC_CODEBOOK_COLUMNS * QC_CODEBOOK_COLUMNS;
    const size_t first = begin * QC_CODEBOOK_COLUMNS, last = end * QC_CODEBOOK_COLUMNS;
    return (qc_columns){args, (args->depth + args->length - 1) / args->length, padded * args->code_bits / 8, first,
                        (last < args->columns ? last : args->columns) - first};
}

/* The codes of vector j in table b. */
QC_INLINE void read_codes(const qc_columns *c, size_t j, size_t b, uint16_t *restrict to) {
    const qc_gemm_codebook_args *args = c->args;
    const uint8_t *restrict from = args->codes + (j * args->tables + b) * c->row_bytes + c->first * args->code_bits / 8;
    if (args->code_bits == 16) {
        memcpy(to, from, c->count * sizeof *to);
    } else if (args->code_bits == 8) {
        for (size_t n = 0; n < c->count; ++n) to[n] = from[n];
    } else {
        const size_t bytes = (c->count + 1) / 2;
        for (size_t i = 0; i < bytes; ++i) {
            to[2 * i] = from[i] & 15;
            to[2 * i + 1] = from[i] >> 4;
        }
    }
}

static void start(const qc_columns *c, size_t row, size_t rows) {
    const qc_gemm_codebook_args *args = c->args;
    for (size_t m = row; m < row + rows; ++m) {
        float *out = args->out + m * args->out_stride + c->first;
        if (args->bias)
            memcpy(out, args->bias + c->first, c->count * sizeof *out);
        else
            memset(out, 0, c->count * sizeof *out);
    }
}

static const float *scales_of(const qc_columns *c, size_t g) {
    return c->args->scale + g * c->row_bytes * 8 / c->args->code_bits + c->first;
}

/* The inputs of vector j, zeros behind the last input of the row. */
QC_INLINE void read_inputs(const qc_columns *c, size_t row, size_t j, float *to) {
    const size_t length = c->args->length, at = j * length, left = c->args->depth - at;
    memset(to, 0, length * sizeof *to);
    memcpy(to, c->args->input + row * c->args->input_stride + at, (left < length ? left : length) * sizeof *to);
}

/* Products of one vector of inputs with all entries of a table. */
QC_INLINE void multiply_entries(const float *inputs, const float *turned, size_t entries, size_t length, float *to) {
    for (size_t e = 0; e < entries; e += QC_LANES) {
        qc_lanes sum = qc_times(qc_splat(inputs[0]), qc_load(turned + e));
        for (size_t i = 1; i < length; ++i)
            sum = qc_fma(qc_splat(inputs[i]), qc_load(turned + i * entries + e), sum);
        qc_store(to + e, sum);
    }
}

/* Products of entries, and which of them each column takes. */
typedef struct {
    float products[TOGETHER][ENTRIES + QC_LANES];
    uint16_t codes[TOGETHER][WIDE];
} qc_looked_up;

#if defined(__AVX512F__)
/* Sixteen of sixteen numbers. */
QC_INLINE qc_lanes picked(const float *from, const uint16_t *codes) {
    const __m512i places = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)codes));
    return (qc_lanes){_mm512_permutexvar_ps(places, _mm512_loadu_ps(from))};
}
#elif defined(__AVX2__)
QC_INLINE qc_lanes picked(const float *from, const uint16_t *codes) {
    qc_lanes found;
    QC_UNROLL for (int i = 0; i < 2; ++i) {
        const __m256i places = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(codes + 8 * i)));
        const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(from), places);
        const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(from + 8), places);
        found.v[i] = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(places, 28)));
    }
    return found;
}
#else
QC_INLINE qc_lanes picked(const float *from, const uint16_t *codes) {
    float found[QC_LANES];
    for (size_t i = 0; i < QC_LANES; ++i) found[i] = from[codes[i]];
    return qc_load(found);
}
#endif

/* Adds to every column what its codes stand for in some tables, one after the other. Behind the last column lies room.
 */
QC_INLINE void add_looked_up(const qc_looked_up *from, int first, int tables, size_t count, int small, float *sums) {
    size_t n = 0;
    for (; small && n < count; n += QC_LANES) {
        qc_lanes sum = qc_load(sums + n);
        QC_UNROLL for (int t = first; t < first + tables; ++t)
            sum = qc_plus(sum, picked(from->products[t], from->codes[t] + n));
        qc_store(sums + n, sum);
    }
    for (; n < count; ++n) {
        float sum = sums[n];
        __asm__ volatile(""); /* one by one: instructions that gather are slower than as many loads */
        QC_UNROLL for (int t = first; t < first + tables; ++t) sum += from->products[t][from->codes[t][n]];
        sums[n] = sum;
    }
}

/* Vectors [first, last) of one row in all tables, to the sums of the columns. */
static void add_vectors(const qc_columns *c, size_t row, size_t first, size_t last, qc_looked_up *space, float *sums) {
    const qc_gemm_codebook_args *args = c->args;
    const size_t end = last * args->tables;
    const int small = args->entries <= QC_LANES;
    float inputs[QC_CODEBOOK_LENGTH];
    int held = 0;
    for (size_t at = first * args->tables; at < end; ++at) {
        const size_t j = at / args->tables, b = at % args->tables;
        if (b == 0) read_inputs(c, row, j, inputs);
        multiply_entries(inputs, args->turned + b * args->length * args->entries, args->entries, args->length,
                         space->products[held]);
        read_codes(c, j, b, space->codes[held]);
        if (++held == TOGETHER) {
            add_looked_up(space, 0, TOGETHER, c->count, small, sums);
            held = 0;
        }
    }
    for (int t = 0; t < held; ++t) add_looked_up(space, t, 1, c->count, small, sums);
}

static void one_row(const qc_columns *c, size_t row) {
    const qc_gemm_codebook_args *args = c->args;
    qc_looked_up space;
    float sums[WIDE];
    float *out = args->out + row * args->out_stride + c->first;
    memset(space.codes, 0, sizeof space.codes); /* of columns that fill up the last sixteen */
    for (size_t g = 0; g * args->block < c->vectors; ++g) {
        const size_t first = g * args->block, left = c->vectors - first;
        const float *scale = scales_of(c, g);
        memset(sums, 0, sizeof sums);
        add_vectors(c, row, first, first + (left < args->block ? left : args->block), &space, sums);
        for (size_t n = 0; n < c->count; ++n) out[n] = fmaf(sums[n], scale[n], out[n]);
    }
}

/* Vector j of up to sixteen rows, input by input. */
QC_INLINE void turn_inputs(const qc_columns *c, size_t row, size_t rows, size_t j, qc_lanes *to, size_t length) {
    float lanes[QC_CODEBOOK_LENGTH][QC_LANES] = {{0}}, inputs[QC_CODEBOOK_LENGTH];
    for (size_t r = 0; r < rows; ++r) {
        read_inputs(c, row + r, j, inputs);
        for (size_t i = 0; i < length; ++i) lanes[i][r] = inputs[i];
    }
    for (size_t i = 0; i < length; ++i) to[i] = qc_load(lanes[i]);
}

QC_INLINE void add_products(const float *table, const uint16_t *codes, size_t count, const qc_lanes *inputs,
                            size_t length, qc_lanes *sums) {
    for (size_t n = 0; n < count; ++n) {
        const float *entry = table + codes[n] * length;
        qc_lanes sum = qc_times(inputs[0], qc_splat(entry[0]));
        for (size_t i = 1; i < length; ++i) sum = qc_fma(inputs[i], qc_splat(entry[i]), sum);
        sums[n] = qc_plus(sums[n], sum);
    }
}

/* The usual lengths, so that inputs stay in registers. */
static void add_products_of(size_t length, const float *table, const uint16_t *codes, size_t count,
                            const qc_lanes *inputs, qc_lanes *sums) {
    if (length == 8)
        add_products(table, codes, count, inputs, 8, sums);
    else if (length == 4)
        add_products(table, codes, count, inputs, 4, sums);
    else if (length == 2)
        add_products(table, codes, count, inputs, 2, sums);
    else
        add_products(table, codes, count, inputs, length, sums);
}

static void some_rows(const qc_columns *c, size_t row, size_t rows) {
    const qc_gemm_codebook_args *args = c->args;
    qc_lanes sums[NARROW], inputs[QC_CODEBOOK_LENGTH];
    uint16_t codes[NARROW];
    for (size_t g = 0; g * args->block < c->vectors; ++g) {
        const size_t first = g * args->block, left = c->vectors - first;
        const size_t last = first + (left < args->block ? left : args->block);
        const float *scale = scales_of(c, g);
        for (size_t n = 0; n < c->count; ++n) sums[n] = qc_splat(0.0f);
        for (size_t j = first; j < last; ++j) {
            turn_inputs(c, row, rows, j, inputs, args->length);
            for (size_t b = 0; b < args->tables; ++b) {
                read_codes(c, j, b, codes);
                add_products_of(args->length, args->table + b * args->entries * args->length, codes, c->count, inputs,
                                sums);
            }
        }
        for (size_t n = 0; n < c->count; ++n) {
            float lanes[QC_LANES], *out = args->out + row * args->out_stride + c->first + n;
            qc_store(lanes, sums[n]);
            for (size_t r = 0; r < rows; ++r, out += args->out_stride) *out = fmaf(lanes[r], scale[n], *out);
        }
    }
}

void qc_gemm_codebook_portable(const qc_gemm_codebook_args *args, size_t begin, size_t end) {
    const qc_columns all = all_columns(args, begin, end);
    for (size_t row = 0; row < args->rows;) {
        const size_t left = args->rows - row, rows = left < QC_LANES ? left : QC_LANES;
        const int few = left <= FEW_ROWS && args->entries <= ENTRIES;
        const size_t step = few ? WIDE : NARROW;
        for (size_t at = 0; at < all.count; at += step) {
            qc_columns c = all;
            c.first = all.first + at;
            c.count = all.count - at < step ? all.count - at : step;
            start(&c, row, rows);
            if (!few) some_rows(&c, row, rows);
            for (size_t m = row; few && m < row + rows; ++m) one_row(&c, m);
        }
        row += rows;
    }
}
