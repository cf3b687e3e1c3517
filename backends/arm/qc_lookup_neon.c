/* qc_lookup by four tables of 64 bytes: what lies outside of one is left to the next, 16 codes in seven instructions
 * beside load and store. */
#include <arm_neon.h>

#include "qc_lookup.h"

static inline uint8x16_t qc_looked_up(const uint8x16x4_t table[4], uint8x16_t codes) {
    uint8x16_t found = vqtbl4q_u8(table[0], codes);
    found = vqtbx4q_u8(found, table[1], veorq_u8(codes, vdupq_n_u8(0x40)));
    found = vqtbx4q_u8(found, table[2], veorq_u8(codes, vdupq_n_u8(0x80)));
    return vqtbx4q_u8(found, table[3], veorq_u8(codes, vdupq_n_u8(0xc0)));
}

void qc_lookup_neon(const qc_lookup_args *args, size_t begin, size_t end) {
    const size_t last = qc_lookup_end(args, end);
    const uint8_t *in = (const uint8_t *)args->input;
    uint8_t *out = (uint8_t *)args->out;
    uint8x16x4_t table[4];
    /* Signed codes count from 128 as bytes: the upper half of the table comes first. */
    for (size_t t = 0; t < 4; ++t) table[t] = vld1q_u8_x4((const uint8_t *)args->table + 64 * (t ^ 2));
    size_t i = begin * QC_LOOKUP_RUN;
    for (; i + 16 <= last; i += 16) vst1q_u8(out + i, qc_looked_up(table, vld1q_u8(in + i)));
    if (i < last) {
        uint8_t some[16];
        vst1q_u8(some, qc_looked_up(table, vld1q_u8(in + i)));
        memcpy(out + i, some, last - i);
    }
}
