/* qc_pack_f32 on every level. */
#include "qc_pack_f32.h"
#include "qc_transpose.h"

static void qc_panel(const qc_pack_f32_args *args, const float *input, size_t count, float *out) {
    for (size_t k = 0; k < args->depth; ++k)
        for (size_t i = 0; i < QC_LANES; ++i)
            out[k * QC_LANES + i] = i < count ? input[k * args->depth_stride + i * args->column_stride] : 0.0f;
}

static void qc_copied_panel(const qc_pack_f32_args *args, const float *input, float *out) {
    for (size_t k = 0; k < args->depth; ++k) qc_store(out + k * QC_LANES, qc_load(input + k * args->depth_stride));
}

static void qc_turned_panel(const qc_pack_f32_args *args, const float *input, float *out) {
    const float *rows[QC_LANES];
    size_t k = 0;
    for (size_t i = 0; i < QC_LANES; ++i) rows[i] = input + i * args->column_stride;
    for (; k + QC_LANES <= args->depth; k += QC_LANES) qc_transpose(rows, k, out + k * QC_LANES);
    for (; k < args->depth; ++k)
        for (size_t i = 0; i < QC_LANES; ++i) out[k * QC_LANES + i] = rows[i][k];
}

void qc_pack_f32_portable(const qc_pack_f32_args *args, size_t begin, size_t end) {
    for (size_t panel = begin; panel < end; ++panel) {
        const size_t first = panel * QC_LANES, rest = args->columns - first, count = rest < QC_LANES ? rest : QC_LANES;
        const float *input = args->input + first * args->column_stride;
        float *out = args->out + panel * args->depth * QC_LANES;
        if (count == QC_LANES && args->column_stride == 1)
            qc_copied_panel(args, input, out);
        else if (count == QC_LANES && args->depth_stride == 1)
            qc_turned_panel(args, input, out);
        else
            qc_panel(args, input, count, out);
    }
}
