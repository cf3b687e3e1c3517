/* qc_pack_planes on every level: eight codes are a word, whose bits of one plane a product moves side by side. */
#include "qc_pack_planes.h"

/* Bit `plane` of each byte: byte i becomes bit i. */
static uint8_t gathered(const uint8_t *bytes, size_t plane) {
    uint64_t word = 0;
    for (size_t i = 0; i < 8; ++i) word |= (uint64_t)bytes[i] << 8 * i;
    word = word >> plane & 0x0101010101010101u;
    return (uint8_t)(word * 0x0102040810204080u >> 56);
}

void qc_pack_planes_portable(const qc_pack_planes_args *args, size_t begin, size_t end) {
    const size_t whole = args->channels / 8, left = args->channels % 8;
    for (size_t m = begin; m < end; ++m) {
        const uint8_t *from = (const uint8_t *)args->input + m / args->width * args->outer_stride +
                              m % args->width * args->inner_stride;
        uint8_t last[8] = {0};
        memcpy(last, from + 8 * whole, left);
        for (size_t j = 0; j < args->planes; ++j) {
            uint8_t *to = args->out + j * args->plane_stride + m * args->out_stride;
            for (size_t i = 0; i < whole; ++i) to[i] = gathered(from + 8 * i, j);
            if (whole < args->out_stride) memset(to + whole, 0, args->out_stride - whole);
            if (left) to[whole] = gathered(last, j);
        }
    }
}
