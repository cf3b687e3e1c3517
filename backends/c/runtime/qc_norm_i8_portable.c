/* qc_norm_i8 on every level: one root and one division a row. */
#include "qc_norm_i8.h"

#define QC_NORM_BITS 20
#define QC_ROOT_BITS 61

/* floor(sqrt(x)) for x below 2^62, bit by bit. */
static uint64_t qc_whole_root(uint64_t x) {
    uint64_t root = 0;
    for (uint64_t bit = (uint64_t)1 << 60; bit; bit >>= 2) {
        const int larger = x >= root + bit;
        x -= larger ? root + bit : 0;
        root = (root >> 1) + (larger ? bit : 0);
    }
    return root;
}

void qc_norm_i8_portable(const qc_norm_i8_args *args, size_t begin, size_t end) {
    const int64_t width = (int64_t)args->width;
    for (size_t m = begin; m < end; ++m) {
        const qc_act *x = args->input + m * args->input_stride;
        qc_act *out = args->out + m * args->out_stride;
        int32_t sum = 0, squares = 0; /* 32768 * 255^2 is below 2^31 */
        for (size_t i = 0; i < args->width; ++i) {
            sum += x[i];
            squares += (int32_t)x[i] * x[i];
        }
        const int64_t centre = args->centred ? sum : width * args->input_zero;
        const int64_t spread = width * squares - 2 * centre * sum + centre * centre + args->epsilon;
        uint64_t scaled = spread < 1 ? 1 : (uint64_t)spread;
        int doubled = 0;
        for (; scaled < (uint64_t)1 << 60; ++doubled) scaled <<= 2;
        const int64_t inverse = (int64_t)(((uint64_t)1 << QC_ROOT_BITS) / qc_whole_root(scaled));
        for (size_t i = 0; i < args->width; ++i) {
            const int64_t a = qc_shifted((width * x[i] - centre) * inverse, QC_ROOT_BITS - QC_NORM_BITS - doubled);
            const int64_t wide = a * args->weight[i] + (int64_t)args->bias[i] * (1 << QC_NORM_BITS);
            const int64_t steps = qc_shifted(wide, args->shift);
            out[i] = (qc_act)qc_fixed_place(steps, args->zero_point, args->low, args->high);
        }
    }
}
