/* 64 signs: masks of comparisons, narrowed to 8 bits each and then to one. */
#include <arm_neon.h>

#include "qc_bits_neon.h"
#include "qc_pack_rows.h"

static inline uint64_t signs_of_reals(const float *x, const float *threshold) {
    uint8x16_t masks[4];
    for (int i = 0; i < 4; ++i) {
        uint32x4_t less[4];
        for (int j = 0; j < 4; ++j) {
            const float32x4_t value = vld1q_f32(x + 16 * i + 4 * j);
            less[j] = threshold ? vcltq_f32(value, vld1q_f32(threshold + 16 * i + 4 * j)) : vcltzq_f32(value);
        }
        masks[i] = qc_narrow_masks(less);
    }
    return qc_bits_of_masks(masks);
}

static inline uint64_t signs_of_codes(const int8_t *codes, const int8_t *threshold) {
    uint8x16_t masks[4];
    for (int i = 0; i < 4; ++i) masks[i] = vcltq_s8(vld1q_s8(codes + 16 * i), vld1q_s8(threshold + 16 * i));
    return qc_bits_of_masks(masks);
}

static inline uint64_t word_at(const qc_pack_bits_args *args, size_t m, size_t k) {
    const size_t at = m * args->stride + k;
    if (args->codes) return signs_of_codes(args->codes + at, args->code_threshold + k);
    /* One call for each, so that the loop inside does not ask. */
    if (args->threshold) return signs_of_reals(args->reals + at, args->threshold + k);
    return signs_of_reals(args->reals + at, NULL);
}

void qc_pack_bits_neon(const qc_pack_bits_args *args, size_t begin, size_t end) {
    qc_pack_rows(args, begin, end, word_at);
}
