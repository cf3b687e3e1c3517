/* qc_quantize_blocks on every level. */
#include "qc_quantize_blocks.h"
#include "qc_steps.h"

#define QC_MOST 127.0f

/* Returns the sum of the codes, in float exact for blocks of up to 2^20. */
static int32_t qc_block(const float *x, size_t count, float inverse, uint8_t *out) {
    const qc_lanes by = qc_splat(inverse);
    qc_lanes sum = qc_splat(0.0f);
    size_t k = 0;
    for (; k + QC_LANES <= count; k += QC_LANES) {
        const qc_lanes code = qc_settled(qc_times(qc_load(x + k), by), 0.0f, -QC_MOST, QC_MOST);
        sum = qc_plus(sum, code);
        qc_store_bytes(out + k, code);
    }
    if (k < count) {
        const qc_lanes some = qc_load_some(x + k, count - k, 0.0f);
        const qc_lanes code = qc_settled(qc_times(some, by), 0.0f, -QC_MOST, QC_MOST);
        sum = qc_plus(sum, code);
        qc_store_some_bytes(out + k, count - k, code);
    }
    return (int32_t)qc_total(sum);
}

void qc_quantize_blocks_portable(const qc_quantize_blocks_args *args, size_t begin, size_t end) {
    const size_t blocks = (args->width + args->block - 1) / args->block;
    for (size_t m = begin; m < end; ++m) {
        for (size_t g = 0; g < blocks; ++g) {
            const size_t first = g * args->block, rest = args->width - first;
            const size_t count = rest < args->block ? rest : args->block;
            const float *x = args->input + m * args->input_stride + first;
            float low, high;
            qc_reach(x, count, &low, &high);
            const float most = -low > high ? -low : high, quotient = most == 0.0f ? 0.0f : QC_MOST / most;
            const float inverse = quotient > 3.40282347e38f ? 0.0f : quotient;
            args->scale[m * blocks + g] = most / QC_MOST;
            args->sum[m * blocks + g] = qc_block(x, count, inverse, (uint8_t *)args->out + m * args->out_stride + first);
        }
    }
}
