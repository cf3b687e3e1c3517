/* qc_pack_f32 on every level. */
#include "qc_pack_f32.h"

void qc_pack_f32_portable(const qc_pack_f32_args *args, size_t begin, size_t end) {
    for (size_t panel = begin; panel < end; ++panel) {
        const size_t first = panel * QC_LANES, rest = args->columns - first, count = rest < QC_LANES ? rest : QC_LANES;
        const float *input = args->input + first * args->column_stride;
        float *out = args->out + panel * args->depth * QC_LANES;
        for (size_t k = 0; k < args->depth; ++k, out += QC_LANES, input += args->depth_stride) {
            if (args->column_stride == 1 && count == QC_LANES) {
                memcpy(out, input, QC_LANES * sizeof *out);
                continue;
            }
            for (size_t i = 0; i < QC_LANES; ++i) out[i] = i < count ? input[i * args->column_stride] : 0.0f;
        }
    }
}
