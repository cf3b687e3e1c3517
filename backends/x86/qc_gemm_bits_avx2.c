/* Products of bit planes by 256 bits; how they are counted stands in qc_b1_avx2.h. */
#include "qc_b1_avx2.h"
#include "qc_bits_tile.h"

void qc_gemm_bits_avx2(const qc_gemm_bits_args *args, size_t begin, size_t end) {
    qc_bits_run(args, begin, end, LEVEL);
}
