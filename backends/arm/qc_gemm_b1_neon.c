/* Products of signs by 128 bits; how they are counted stands in qc_b1_neon.h. */
#include "qc_b1_neon.h"
#include "qc_bits_neon.h"

static inline uint64_t signs_of(const int32_t *sums, const int32_t *threshold) {
    uint8x16_t masks[4];
    for (int i = 0; i < 4; ++i) {
        uint32x4_t less[4];
        for (int j = 0; j < 4; ++j)
            less[j] = vcltq_s32(vld1q_s32(sums + 16 * i + 4 * j), vld1q_s32(threshold + 16 * i + 4 * j));
        masks[i] = qc_narrow_masks(less);
    }
    return qc_bits_of_masks(masks);
}

void qc_gemm_b1_neon(const qc_gemm_b1_args *args, size_t begin, size_t end) {
    qc_b1_run(args, begin, end, LEVEL, signs_of);
}
