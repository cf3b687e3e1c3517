/* How codes are multiplied by 512 bits stands in qc_gemm_wna8_vnni.h. */
#include "qc_gemm_wna8_vnni.h"

void qc_gemm_wna8_avx512(const qc_gemm_wna8_args *args, size_t begin, size_t end) { by_panels(args, begin, end); }
