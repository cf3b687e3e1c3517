/* sdot multiplies codes of weights (0 to 15, so that their sign does not matter; those of 8 bits less 128) by codes of
 * activations: 16 MAC.
 *
 * Large tile, 8 rows by one panel of 8 outputs: for every 16 inputs 64 sdot by element, 8 loads of activations as they
 * lie and 4 loads of pairs of weights: with the loop around it 12.8 MAC per instruction. Blocks of more inputs than are
 * unpacked at a time, of 4 bits: 2 to 4 loads of weights and 8 operations that unpack them, 12.2.
 */
#include <arm_neon.h>

#define QC_COLUMNS 8
#define QC_DEPTH 4
#define QC_LANES 4
#define QC_ROWS 8
#define QC_FEW_ROWS 4
#define QC_MANY_PANELS 1
#define QC_PANELS 4
#define QC_GATHERS 0
#define QC_MOST_SUMS 16
#define QC_DECODED 1536
#define QC_SUMS(bits, rows) ((void)(bits), (void)(rows), 1)

#include "qc_gemm_wna8_arm.h"

QC_INLINE void turn(ints *sums, int rows, int wide) { (void)sums, (void)rows, (void)wide; }

QC_INLINE void set_sums(ints *sums, ints x, int count) {
    (void)count;
    sums[0] = x;
}

QC_INLINE ints fold(const ints *sums, unsigned bits, int rows) {
    (void)bits, (void)rows;
    return sums[0];
}

QC_INLINE ints dot(ints sum, int8x16_t codes, int8x16_t inputs, int run) {
    switch (run) {
    case 0:
        return vdotq_laneq_s32(sum, codes, inputs, 0);
    case 1:
        return vdotq_laneq_s32(sum, codes, inputs, 1);
    case 2:
        return vdotq_laneq_s32(sum, codes, inputs, 2);
    default:
        return vdotq_laneq_s32(sum, codes, inputs, 3);
    }
}

/* Adds the products of 16 inputs, beginning at run `first` of a chunk. */
QC_INLINE void sixteen(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                       int rows, int panels, unsigned bits, int first) {
    int8x16_t inputs[QC_ROWS];
    QC_UNROLL for (int r = 0; r < rows; ++r) inputs[r] = vld1q_s8(input + (size_t)r * stride + 4 * first);
    QC_UNROLL for (int p = 0; p < panels; ++p) {
        const uint8_t *chunk = weight + (size_t)p * panel_bytes;
        QC_UNROLL for (int run = 0; run < 4; ++run) {
            const int8x16_t low = codes_of(chunk, bits, first + run, 0), high = codes_of(chunk, bits, first + run, 1);
            QC_UNROLL for (int r = 0; r < rows; ++r) {
                ints *sum = sums + (r * panels + p) * 2;
                sum[0] = dot(sum[0], low, inputs[r], run);
                sum[1] = dot(sum[1], high, inputs[r], run);
            }
        }
    }
}

QC_INLINE void chunk(ints *sums, const uint8_t *weight, size_t panel_bytes, const int8_t *input, size_t stride,
                     int rows, int panels, unsigned bits) {
    sixteen(sums, weight, panel_bytes, input, stride, rows, panels, bits, 0);
    if (bits == 3) sixteen(sums, weight, panel_bytes, input, stride, rows, panels, bits, 4);
}

#include "qc_gemm_wna8_tile.h"

void qc_gemm_wna8_dotprod(const qc_gemm_wna8_args *args, size_t begin, size_t end) { by_panels(args, begin, end); }
