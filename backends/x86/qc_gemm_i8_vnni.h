/* Tiles of qc_gemm_i8 with vpdpbusd: 64 multiply-accumulates an instruction, two a cycle.
 *
 * A tile of R rows and C panels of 16 columns keeps R * C sums in registers. A step over four inputs loads C vectors of
 * weights, broadcasts four activations of each row and multiplies R * C times: the 6 x 4 tile makes 1536
 * multiply-accumulates from 10 loads and 24 products, which the two multipliers need 12 cycles for.
 */
#ifndef QC_GEMM_I8_VNNI_H
#define QC_GEMM_I8_VNNI_H

#include "qc_gemm_i8_x86.h"

enum { ROWS = 6, PANELS = 4, STREAMED_ROWS = 4, AHEAD = 2048 };

/* Which cache weights are fetched to beforehand. */
typedef enum { TO_NONE, TO_FIRST, TO_SECOND } cache;

/* Sums of a tile, bias included, to `sums`: [rows][panels], where 3 panels take the room of 4. */
typedef void tile_function(const qc_gemm_i8_args *args, size_t m, size_t n, size_t ahead, __m512i *sums);

QC_INLINE __m512i four_activations(const qc_act *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm512_set1_epi32(four);
}

/* One step over four inputs. */
QC_INLINE void step(__m512i *sums, const qc_act *const *starts, ptrdiff_t k, const int8_t *weight, size_t panel,
                    size_t rows, size_t panels) {
    __m512i columns[PANELS];
    QC_UNROLL
    for (size_t c = 0; c < panels; ++c) columns[c] = _mm512_loadu_si512(weight + c * panel);
    QC_UNROLL
    for (size_t r = 0; r < rows; ++r) {
        __m512i inputs = four_activations(starts[r] + k);
        QC_UNROLL
        for (size_t c = 0; c < panels; ++c)
            sums[r * panels + c] = _mm512_dpbusd_epi32(sums[r * panels + c], inputs, columns[c]);
    }
}

/* `apart` steps go to sums of their own, so that a product need not wait for the one before (5 cycles). */
QC_INLINE void tile(const qc_gemm_i8_args *args, size_t m, size_t n, __m512i *result, size_t rows, size_t panels,
                    size_t apart, cache fetch, size_t ahead) {
    const size_t runs = (args->depth + RUN - 1) / RUN, panel = panel_bytes(args), all = rows * panels;
    const int8_t *weight = args->weight + n / PANEL * panel;
    const qc_act *starts[ROWS];
    __m512i sums[ROWS * PANELS];
    row_starts(args, m, rows, starts);
    QC_UNROLL
    for (size_t i = 0; i < all * apart; ++i)
        sums[i] = i < all ? _mm512_loadu_si512(args->epilogue.bias + n + i % panels * PANEL) : _mm512_setzero_si512();
    for (size_t t = 0; t < args->taps; ++t) {
        ptrdiff_t k = args->offsets ? args->offsets[t] : 0;
        size_t run = 0;
        for (; run + apart <= runs; run += apart) {
            QC_UNROLL
            for (size_t i = 0; i < apart; ++i, k += RUN, weight += PANEL * RUN) {
                if (fetch == TO_FIRST) _mm_prefetch((const char *)weight + ahead, _MM_HINT_T0);
                if (fetch == TO_SECOND) _mm_prefetch((const char *)weight + ahead, _MM_HINT_T1);
                step(sums + i * all, starts, k, weight, panel, rows, panels);
            }
        }
        for (; apart > 1 && run < runs; ++run, k += RUN, weight += PANEL * RUN)
            step(sums, starts, k, weight, panel, rows, panels);
    }
    QC_UNROLL
    for (size_t i = 0; i < all; ++i) {
        QC_UNROLL
        for (size_t j = i + all; j < all * apart; j += all) sums[i] = _mm512_add_epi32(sums[i], sums[j]);
        result[i / panels * (panels == 3 ? 4 : panels) + i % panels] = sums[i];
    }
}

/* Prefetches what lies `ahead` bytes behind the weights that it reads. */
#define STREAM(rows)                                                                                \
    static void stream_##rows(const qc_gemm_i8_args *args, size_t m, size_t n, size_t ahead, __m512i *sums) { \
        tile(args, m, n, sums, rows, 1, 4, TO_FIRST, ahead);                                                 \
    }
STREAM(1) STREAM(2) STREAM(3) STREAM(4)

static tile_function *const STREAMS[STREAMED_ROWS] = {stream_1, stream_2, stream_3, stream_4};

/* Few rows: weights are read once, in one stream. */
static void by_stream(const qc_gemm_i8_args *args, size_t m, size_t rows) {
    __m512i sums[STREAMED_ROWS] = {_mm512_setzero_si512()};
    for (size_t n = 0; n < args->columns; n += PANEL) {
        STREAMS[rows - 1](args, m, n, AHEAD, sums);
        finish(args, m, n, rows, 1, sums);
    }
}

#endif
