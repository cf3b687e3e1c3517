/* qc_quantize_rows on every level. */
#include "qc_quantize_rows.h"
#include "qc_steps.h"

#define QC_LARGEST_SCALE 3.40282347e38f
#define QC_SMALLEST_SCALE 1.40129846e-45f

static float qc_kept(float scale) {
    scale = scale < QC_SMALLEST_SCALE ? QC_SMALLEST_SCALE : scale;
    return scale > QC_LARGEST_SCALE ? QC_LARGEST_SCALE : scale;
}

static void qc_choose(const qc_quantize_rows_args *args, float low, float high, float *scale, float *zero) {
    *zero = 0.0f;
    *scale = 1.0f;
    if (args->symmetric) {
        const float span = args->lowest < 0.0f && -low > high ? -low : high;
        if (span != 0.0f) *scale = qc_kept(span / args->highest);
        return;
    }
    const float span = high - low, steps = args->highest - args->lowest;
    if (span == 0.0f) return;
    *scale = qc_kept(span > QC_LARGEST_SCALE ? high / steps - low / steps : span / steps);
    /* Beyond all codes the zero point is clipped; before rounding, so that any quotient can be rounded. */
    float place = args->lowest - low / *scale;
    place = place < args->lowest ? args->lowest : place;
    place = place > args->highest ? args->highest : place;
    *zero = qc_round(place);
}

/* Returns the sum of the codes. */
static int32_t qc_codes_of(const qc_quantize_rows_args *args, const float *restrict x, uint8_t *restrict out, float scale,
                           float zero) {
    const float lowest = args->lowest, highest = args->highest;
    const int32_t shift = (int32_t)args->shift;
    int32_t sum = 0;
    for (size_t k = 0; k < args->width; ++k) {
        const int32_t code = qc_settled(x[k] / scale, zero, lowest, highest);
        sum += code;
        out[k] = (uint8_t)(code + shift);
    }
    return sum;
}

void qc_quantize_rows_portable(const qc_quantize_rows_args *args, size_t begin, size_t end) {
    for (size_t m = begin; m < end; ++m) {
        const float *x = args->input + m * args->input_stride;
        float low, high, scale, zero;
        qc_reach(x, args->width, &low, &high);
        qc_choose(args, low, high, &scale, &zero);
        const int32_t sum = qc_codes_of(args, x, (uint8_t *)args->out + m * args->out_stride, scale, zero);
        args->scale[m] = scale;
        if (args->zero) args->zero[m] = (int32_t)(zero + args->shift);
        if (args->sum) args->sum[m] = sum;
    }
}
