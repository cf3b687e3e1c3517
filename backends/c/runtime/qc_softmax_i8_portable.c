/* qc_softmax_i8 on every level: one division a row. */
#include "qc_softmax_i8.h"

void qc_softmax_i8_portable(const qc_softmax_i8_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        const qc_act *x = args->input + m * args->input_stride;
        qc_act *out = args->out + m * args->out_stride;
        qc_act largest = x[0];
        for (size_t i = 0; i < args->width; ++i) largest = x[i] > largest ? x[i] : largest;
        uint64_t total = 0;
        for (size_t i = 0; i < args->width; ++i) total += args->table[largest - x[i]];
        const int64_t part = (int64_t)(((uint64_t)args->mantissa << 37) / total);
        for (size_t i = 0; i < args->width; ++i) {
            const int64_t steps = qc_shifted(args->table[largest - x[i]] * part, args->shift);
            out[i] = (qc_act)qc_fixed_place(steps, args->zero_point, args->low, args->high);
        }
    }
}
