/* Products of signs for armv7; how they are counted stands in qc_b1_neon32.h. */
#include "qc_b1_neon32.h"

void qc_gemm_b1_neon32(const qc_gemm_b1_args *args, size_t begin, size_t end) {
    qc_b1_run(args, begin, end, LEVEL, qc_b1_plain_signs);
}
