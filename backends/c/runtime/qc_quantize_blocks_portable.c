/* qc_quantize_blocks on every level. */
#include "qc_quantize_blocks.h"
#include "qc_steps.h"

#define QC_MOST 127.0f

void qc_quantize_blocks_portable(const qc_quantize_blocks_args *args, size_t begin, size_t end) {
    const size_t blocks = (args->width + args->block - 1) / args->block;
    for (size_t m = begin; m < end; ++m) {
        for (size_t g = 0; g < blocks; ++g) {
            const size_t first = g * args->block, rest = args->width - first;
            const size_t count = rest < args->block ? rest : args->block;
            const float *restrict x = args->input + m * args->input_stride + first;
            int8_t *restrict out = args->out + m * args->out_stride + first;
            float low, high;
            int32_t sum = 0;
            qc_reach(x, count, &low, &high);
            const float most = -low > high ? -low : high, quotient = most == 0.0f ? 0.0f : QC_MOST / most;
            const float inverse = quotient > 3.40282347e38f ? 0.0f : quotient;
            for (size_t k = 0; k < count; ++k) {
                const int32_t code = qc_settled(x[k] * inverse, 0.0f, -QC_MOST, QC_MOST);
                sum += code;
                out[k] = (int8_t)code;
            }
            args->scale[m * blocks + g] = most / QC_MOST;
            args->sum[m * blocks + g] = sum;
        }
    }
}
