/* Without sdot: smull and smlal multiply bytes to int16, where four products of codes below 16 by activations add up
 * without overflow (4 * 15 * 127 < 2^15); sadalp adds pairs of them to int32. For every 16 inputs and 8 outputs of a
 * row 16 products and 4 sadalp. Codes of 8 bits (less 128) are widened after every product.
 */
#include <arm_neon.h>

#define QC_COLUMNS 8
#define QC_DEPTH 4
#define QC_LANES 4
#define QC_ROWS 4
#define QC_FEW_ROWS 2
#define QC_MANY_PANELS 1
#define QC_DECODED 512
#define QC_PANELS 2
#define QC_GATHERS 0
#define QC_MOST_SUMS 16

#define QC_SUMS(bits, rows) ((void)(bits), (void)(rows), 2)

#include "qc_gemm_wna8_arm.h"

/* A sum holds two of the four products of its outputs in neighbouring lanes: outputs 0, 1 and outputs 2, 3. */
QC_INLINE void turn(ints *sums, int rows, int wide) { (void)sums, (void)rows, (void)wide; }

QC_INLINE void set_sums(ints *sums, ints x, int count) {
    (void)count;
    sums[0] = sums[1] = vtrn1q_s32(x, vdupq_n_s32(0));
}

QC_INLINE ints fold(const ints *sums, unsigned bits, int rows) {
    (void)bits, (void)rows;
    return vpaddq_s32(sums[0], sums[1]);
}

QC_INLINE int8x8_t inputs_of(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return vreinterpret_s8_s32(vdup_n_s32(four));
}

/* Two outputs by four inputs of four runs. */
QC_INLINE ints add_runs(ints sum, const int8x8_t *codes, const int8x8_t *inputs, unsigned bits) {
    int16x8_t pairs = vmull_s8(codes[0], inputs[0]);
    QC_UNROLL for (int run = 1; run < 4; ++run) {
        if (bits == 8) {
            sum = vpadalq_s16(sum, pairs);
            pairs = vmull_s8(codes[run], inputs[run]);
        } else {
            pairs = vmlal_s8(pairs, codes[run], inputs[run]);
        }
    }
    return vpadalq_s16(sum, pairs);
}

/* Adds the products of 16 inputs, beginning at run `first` of a chunk. */
QC_INLINE void sixteen(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                       int rows, int panels, unsigned bits, int first) {
    QC_UNROLL for (int i = 0; i < panels * QC_COLUMNS / QC_LANES; ++i) {
        int8x8_t low[4], high[4];
        QC_UNROLL for (int run = 0; run < 4; ++run) {
            const int8x16_t codes = codes_of(weight + (size_t)(i / 2) * panel_bytes, bits, first + run, i % 2);
            low[run] = vget_low_s8(codes), high[run] = vget_high_s8(codes);
        }
        QC_UNROLL for (int r = 0; r < rows; ++r) {
            const int8_t *row = input + (size_t)r * stride + 4 * first;
            int8x8_t inputs[4];
            QC_UNROLL for (int run = 0; run < 4; ++run) inputs[run] = inputs_of(row + 4 * run);
            ints *sum = sums + (r * panels * QC_COLUMNS / QC_LANES + i) * 2;
            sum[0] = add_runs(sum[0], low, inputs, bits);
            sum[1] = add_runs(sum[1], high, inputs, bits);
        }
    }
}

QC_INLINE void chunk(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                     int rows, int panels, unsigned bits) {
    sixteen(sums, weight, panel_bytes, input, stride, rows, panels, bits, 0);
    if (bits == 3) sixteen(sums, weight, panel_bytes, input, stride, rows, panels, bits, 4);
}

#include "qc_gemm_wna8_tile.h"

void qc_gemm_wna8_neon(const qc_gemm_wna8_args *args, size_t begin, size_t end) { by_panels(args, begin, end); }
