/* Products of bit planes by 128 bits on armv7; how they are counted stands in qc_b1_neon32.h. */
#include "qc_b1_neon32.h"
#include "qc_bits_tile.h"

void qc_gemm_bits_neon32(const qc_gemm_bits_args *args, size_t begin, size_t end) {
    qc_bits_run(args, begin, end, LEVEL);
}
