/* smmla: weights as [.][8 columns][8], activations packed eight inputs of two rows at a time.
 *
 * A product takes two rows of eight inputs and two columns of as many. Rows lie apart in memory, so eight of them are
 * packed once for many panels: 24 instructions for what each panel then multiplies in 40. Inner loop of 8 rows x 8
 * columns x 16 inputs: 8 loads of pairs, 32 smmla, which is 1024 MAC in 40 instructions and the loop's own four.
 *
 * What is packed fits the first cache beside a panel; longer sums are taken in several goes.
 */
#include "qc_gemm_i8_arm.h"

enum {
    RUN = 8,
    RUNS = 160,  /* packed at a time: 10 KiB */
    PANELS = 16, /* that share them, whose sums take 4 KiB */
    PAIRS = 4,
};

/* Packs runs [begin, end) of the rows in pairs: [run][pair][2 rows][RUN]. */
static void pack(
    const qc_gemm_i8_args *args, const int8_t *const rows[2 * PAIRS], size_t pairs, size_t begin, size_t end,
    int8_t *packed) {
    const size_t each = (args->depth + RUN - 1) / RUN; /* runs of a tap */
    for (size_t at = begin; at < end;) {
        const size_t first = at % each, count = qc_smaller(end - at, each - first);
        const ptrdiff_t offset = qc_tap(args, at / each) + (ptrdiff_t)(first * RUN);
        for (size_t p = 0; p < pairs; ++p) {
            const int8_t *upper = rows[2 * p] + offset, *lower = rows[2 * p + 1] + offset;
            int8_t *to = packed + ((at - begin) * pairs + p) * 2 * RUN;
            size_t i = 0;
            for (; i + 2 <= count; i += 2, to += pairs * 4 * RUN) {
                const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(upper + i * RUN));
                const int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(lower + i * RUN));
                vst1q_s8(to, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
                vst1q_s8(to + pairs * 2 * RUN, vreinterpretq_s8_s64(vzip2q_s64(a, b)));
            }
            if (i < count) vst1q_s8(to, vcombine_s8(vld1_s8(upper + i * RUN), vld1_s8(lower + i * RUN)));
        }
        at += count;
    }
}

#define QC_EACH_PAIR(DO) DO(0) DO(1) DO(2) DO(3)
#define QC_START(p)                                                                                                    \
    sum[p][0] = sum[p][1] = sum[p][2] = sum[p][3] = vdupq_n_s32(0);
#define QC_SMMLA(p)                                                                                                    \
    if (p < pairs) {                                                                                                   \
        sum[p][0] = vmmlaq_s32(sum[p][0], a[p], w[0]);                                                                 \
        sum[p][1] = vmmlaq_s32(sum[p][1], a[p], w[1]);                                                                 \
        sum[p][2] = vmmlaq_s32(sum[p][2], a[p], w[2]);                                                                 \
        sum[p][3] = vmmlaq_s32(sum[p][3], a[p], w[3]);                                                                 \
    }
#define QC_WANTED(p) QC_SUMMED(sum[p]);
/* The run `i` behind where packed and weight point. */
#define QC_RUN(i)                                                                                                      \
    do {                                                                                                               \
        const int8_t *left = packed + (i) * pairs * 2 * RUN, *right = weight + (i) * RUN * QC_PANEL;                   \
        int8x16_t a[PAIRS], w[4];                                                                                      \
        a[0] = vld1q_s8(left), a[1] = vld1q_s8(left + 16);                                                             \
        a[2] = vld1q_s8(left + 32), a[3] = vld1q_s8(left + 48);                                                        \
        w[0] = vld1q_s8(right), w[1] = vld1q_s8(right + 16);                                                           \
        w[2] = vld1q_s8(right + 32), w[3] = vld1q_s8(right + 48);                                                      \
        QC_LOADED(a);                                                                                                  \
        QC_LOADED(w);                                                                                                  \
        QC_EACH_PAIR(QC_SMMLA)                                                                                         \
        QC_EACH_PAIR(QC_WANTED)                                                                                        \
    } while (0)
/* A sum holds two columns of two rows; four columns of one row are the halves of two sums. */
#define QC_ROW(p, h, zip)                                                                                              \
    vreinterpretq_s32_s64(zip(vreinterpretq_s64_s32(sum[p][2 * (h)]), vreinterpretq_s64_s32(sum[p][2 * (h) + 1])))
#define QC_PUT(to, value)                                                                                              \
    do {                                                                                                               \
        int32_t *at = to;                                                                                              \
        vst1q_s32(at, more ? vaddq_s32(vld1q_s32(at), value) : value);                                                 \
    } while (0)
#define QC_STORE(p)                                                                                                    \
    if (p < pairs) {                                                                                                   \
        QC_PUT(sums[2 * (p)], QC_ROW(p, 0, vzip1q_s64));                                                               \
        QC_PUT(sums[2 * (p)] + 4, QC_ROW(p, 1, vzip1q_s64));                                                           \
        QC_PUT(sums[2 * (p) + 1], QC_ROW(p, 0, vzip2q_s64));                                                           \
        QC_PUT(sums[2 * (p) + 1] + 4, QC_ROW(p, 1, vzip2q_s64));                                                       \
    }

/* Sums of the products of `runs` runs; added to what is there when there is `more` than one go. */
QC_INLINE void multiply(
    const int8_t *packed, const int8_t *weight, size_t runs, int more, int32_t sums[][QC_PANEL], const int pairs) {
    int32x4_t sum[PAIRS][4];
    QC_EACH_PAIR(QC_START)
    for (size_t twice = runs / 2; twice; --twice, weight += 2 * RUN * QC_PANEL, packed += 2 * pairs * 2 * RUN) {
        QC_RUN(0);
        QC_RUN(1);
    }
    if (runs % 2) QC_RUN(0);
    if (more) {
        QC_EACH_PAIR(QC_STORE)
    } else {
        QC_EACH_PAIR(QC_STORE)
    }
}

static void multiply_4(const int8_t *packed, const int8_t *weight, size_t runs, int more, int32_t sums[][QC_PANEL]) {
    multiply(packed, weight, runs, more, sums, 4);
}
static void multiply_2(const int8_t *packed, const int8_t *weight, size_t runs, int more, int32_t sums[][QC_PANEL]) {
    multiply(packed, weight, runs, more, sums, 2);
}
static void multiply_1(const int8_t *packed, const int8_t *weight, size_t runs, int more, int32_t sums[][QC_PANEL]) {
    multiply(packed, weight, runs, more, sums, 1);
}

typedef void qc_multiply(
    const int8_t *packed, const int8_t *weight, size_t runs, int more, int32_t sums[][QC_PANEL]);

/* Some pairs of rows from m on, the last of them possibly half a pair; rows that do not exist repeat the last. */
static void row_pairs(const qc_gemm_i8_args *args, size_t m, size_t rows, size_t pairs, qc_multiply *product) {
    const size_t runs = args->taps * ((args->depth + RUN - 1) / RUN), panel = runs * RUN * QC_PANEL;
    const int8_t *bases[2 * PAIRS];
    int8_t packed[RUNS * PAIRS * 2 * RUN];
    qc_row_bases(args, m, m + rows, bases);
    for (size_t r = rows; r < 2 * pairs; ++r) bases[r] = bases[rows - 1];
    for (size_t block = 0; block < args->columns; block += PANELS * QC_PANEL) {
        const size_t last = qc_smaller(args->columns, block + PANELS * QC_PANEL);
        int32_t sums[PANELS][2 * PAIRS][QC_PANEL];
        for (size_t begin = 0; begin < runs; begin += RUNS) {
            const size_t end = qc_smaller(runs, begin + RUNS);
            if (block == 0 || runs > RUNS) pack(args, bases, pairs, begin, end, packed);
            const int8_t *weight = args->weight + block / QC_PANEL * panel + begin * RUN * QC_PANEL;
            for (size_t n = block; n < last; n += QC_PANEL, weight += panel)
                product(packed, weight, end - begin, begin > 0, sums[(n - block) / QC_PANEL]);
        }
        for (size_t n = block; n < last; n += QC_PANEL)
            qc_finish_panel(args, (const int32_t(*)[QC_PANEL])sums[(n - block) / QC_PANEL], rows, m, n);
    }
}

void qc_gemm_i8_i8mm(const qc_gemm_i8_args *args, size_t begin, size_t end) {
    size_t m = begin;
    for (; m + 7 <= end; m += 8) row_pairs(args, m, qc_smaller(8, end - m), 4, multiply_4);
    for (; m + 3 <= end; m += 4) row_pairs(args, m, qc_smaller(4, end - m), 2, multiply_2);
    for (; m < end; m += 2) row_pairs(args, m, qc_smaller(2, end - m), 1, multiply_1);
}
