/* The meaning of qc_pack_bits, element by element. */
#include "qc_bits.h"
#include "qc_pack_bits.h"

static int is_less(const qc_pack_bits_args *args, size_t m, size_t k) {
    if (args->codes) return args->codes[m * args->stride + k] < args->code_threshold[k];
    return args->reals[m * args->stride + k] < (args->threshold ? args->threshold[k] : 0.0f);
}

void qc_pack_bits_portable(const qc_pack_bits_args *args, size_t begin, size_t end) {
    const size_t bytes = qc_bit_words(args->channels) * 8;
    for (size_t m = begin; m < end; ++m) {
        uint8_t *out = args->out + m * args->out_stride;
        memset(out, 0, bytes);
        for (size_t k = 0; k < args->channels; ++k) out[k / 8] |= (uint8_t)(is_less(args, m, k) << k % 8);
        for (size_t byte = 0; args->flip && byte < bytes; ++byte) out[byte] ^= args->flip[byte];
    }
}
