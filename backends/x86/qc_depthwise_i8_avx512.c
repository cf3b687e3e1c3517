/* qc_depthwise_i8, 64 channels at a time. */
#include "qc_depthwise_i8_x86.h"

void qc_depthwise_i8_avx512(const qc_depthwise_i8_args *args, size_t begin, size_t end) {
    depthwise(args, begin, end);
}
