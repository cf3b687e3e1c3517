/* qc_gemm_f32 in tiles of QC_TILE_ROWS rows and up to QC_TILE_PANELS panels of 16 columns, which stay in registers. With
 * AVX-512, 6 x 4: 24 multiply-adds of 16 for 4 loads and 6 broadcasts; with AVX2, 6 x 1: 12 of 8 for 2 and 6.
 * All of a sum in one go: to make it in parts, so that weights stay in the first cache, was measured to be slower. */
#include "qc_gemm_f32.h"

#if defined(__AVX512F__)
#define QC_TILE_ROWS 6
#define QC_TILE_PANELS 4
#define QC_ROW_PANELS 4
#elif defined(__AVX2__) && defined(__FMA__)
#define QC_TILE_ROWS 6
#define QC_TILE_PANELS 1
#define QC_ROW_PANELS 4
#else
#define QC_TILE_ROWS 4
#define QC_TILE_PANELS 1
#define QC_ROW_PANELS 1
#endif

QC_INLINE qc_lanes qc_start(const qc_gemm_f32_args *args, size_t n) {
    const size_t left = args->columns - n;
    if (!args->bias) return qc_splat(0.0f);
    return left >= QC_LANES ? qc_load(args->bias + n) : qc_load_some(args->bias + n, left, 0.0f);
}

QC_INLINE void qc_keep(const qc_gemm_f32_args *args, size_t m, size_t n, qc_lanes sum) {
    const size_t left = args->columns - n;
    float *out = args->out + m * args->out_stride + n;
    if (args->added) {
        const float *added = args->added + m * args->added_stride + n;
        sum = qc_plus(sum, left >= QC_LANES ? qc_load(added) : qc_load_some(added, left, 0.0f));
    }
    sum = qc_at_most(qc_at_least(sum, qc_splat(args->low)), qc_splat(args->high));
    if (left >= QC_LANES)
        qc_store(out, sum);
    else
        qc_store_some(out, left, sum);
}

/* `rows` and `panels` are constants wherever this is called. */
QC_INLINE void qc_tile(const qc_gemm_f32_args *args, size_t m, size_t panel, size_t rows, size_t panels) {
    qc_lanes sum[QC_TILE_ROWS][QC_ROW_PANELS];
    const size_t step = args->taps * args->depth * QC_LANES;
    const float *weight = args->weight + panel * step;
    QC_UNROLL for (size_t p = 0; p < panels; ++p) {
        const qc_lanes start = qc_start(args, (panel + p) * QC_LANES);
        QC_UNROLL for (size_t r = 0; r < rows; ++r) sum[r][p] = start;
    }
    const float *row[QC_TILE_ROWS];
    QC_UNROLL for (size_t r = 0; r < rows; ++r) row[r] = qc_gemm_f32_row(args, m + r);
    for (size_t t = 0; t < args->taps; ++t) {
        const float *a[QC_TILE_ROWS];
        const ptrdiff_t offset = args->offsets ? args->offsets[t] : 0;
        QC_UNROLL for (size_t r = 0; r < rows; ++r) a[r] = row[r] + offset;
        for (size_t k = 0; k < args->depth; ++k, weight += QC_LANES) {
            qc_lanes w[QC_ROW_PANELS];
            QC_UNROLL for (size_t p = 0; p < panels; ++p) w[p] = qc_load(weight + p * step);
            QC_UNROLL for (size_t r = 0; r < rows; ++r) {
                const qc_lanes one = qc_splat(a[r][k]);
                QC_UNROLL for (size_t p = 0; p < panels; ++p) sum[r][p] = qc_fma(one, w[p], sum[r][p]);
            }
        }
    }
    QC_UNROLL for (size_t r = 0; r < rows; ++r) {
        QC_UNROLL for (size_t p = 0; p < panels; ++p) qc_keep(args, m + r, (panel + p) * QC_LANES, sum[r][p]);
    }
}

#define QC_ROWS_OF(name, panels)                                                                                       \
    static void name(const qc_gemm_f32_args *args, size_t panel, size_t m, size_t end) {                               \
        for (; m + QC_TILE_ROWS <= end; m += QC_TILE_ROWS) qc_tile(args, m, panel, QC_TILE_ROWS, panels);              \
        for (; m + 4 <= end; m += 4) qc_tile(args, m, panel, 4, panels);                                               \
        for (; m + 2 <= end; m += 2) qc_tile(args, m, panel, 2, panels);                                               \
        if (m < end) qc_tile(args, m, panel, 1, panels);                                                               \
    }
QC_ROWS_OF(qc_panels_1, 1)
#if QC_TILE_PANELS > 1
QC_ROWS_OF(qc_panels_2, 2)
QC_ROWS_OF(qc_panels_4, 4)
#endif

/* How many panels it did. */
static size_t qc_some_panels(const qc_gemm_f32_args *args, size_t panel, size_t left, size_t begin, size_t end) {
#if QC_TILE_PANELS > 1
    if (left >= 4) return qc_panels_4(args, panel, begin, end), 4;
    if (left >= 2) return qc_panels_2(args, panel, begin, end), 2;
#else
    /* One row alone would wait for each of its few sums: it takes more columns at once. */
    if (QC_ROW_PANELS > 1 && left >= QC_ROW_PANELS && end - begin == 1)
        return qc_tile(args, begin, panel, 1, QC_ROW_PANELS), QC_ROW_PANELS;
#endif
    return qc_panels_1(args, panel, begin, end), 1;
}

void qc_gemm_f32_portable(const qc_gemm_f32_args *args, size_t begin, size_t end) {
    const size_t panels = (args->columns + QC_LANES - 1) / QC_LANES;
    if (begin >= end) return;
    for (size_t panel = 0; panel < panels;) panel += qc_some_panels(args, panel, panels - panel, begin, end);
}
