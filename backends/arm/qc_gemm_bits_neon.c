/* Products of bit planes by 128 bits; how they are counted stands in qc_b1_neon.h. */
#include "qc_b1_neon.h"
#include "qc_bits_tile.h"

void qc_gemm_bits_neon(const qc_gemm_bits_args *args, size_t begin, size_t end) {
    qc_bits_run(args, begin, end, LEVEL);
}
