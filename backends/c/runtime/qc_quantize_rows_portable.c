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

/* `invert` is a constant. */
QC_INLINE qc_lanes qc_code(const qc_quantize_rows_args *args, qc_lanes x, float scale, float zero, int invert) {
    const qc_lanes steps = invert ? qc_quotient(x, scale, 1.0f / scale) : qc_over(x, qc_splat(scale));
    return qc_settled(steps, zero, args->lowest, args->highest);
}

/* Returns the sum of the codes. */
QC_INLINE int32_t qc_codes_by(const qc_quantize_rows_args *args, const float *x, uint8_t *out, float scale, float zero,
                              int invert) {
    const size_t width = args->width, left = width % QC_LANES;
    const qc_lanes shift = qc_splat(args->shift);
    qc_lanes sum = qc_splat(0.0f);
    size_t k = 0;
    for (; k + QC_LANES <= width; k += QC_LANES) {
        const qc_lanes code = qc_code(args, qc_load(x + k), scale, zero, invert);
        sum = qc_plus(sum, code);
        qc_store_bytes(out + k, qc_plus(code, shift));
    }
    if (!left) return (int32_t)qc_total(sum);
    /* What is missing is filled up with zeros, whose codes do not count. */
    const qc_lanes code = qc_code(args, qc_load_some(x + k, left, 0.0f), scale, zero, invert);
    qc_store_some_bytes(out + k, left, qc_plus(code, shift));
    return (int32_t)qc_total(qc_plus(sum, code)) - (int32_t)(QC_LANES - left) * (int32_t)zero;
}

static int32_t qc_codes_of(const qc_quantize_rows_args *args, const float *x, uint8_t *out, float scale, float zero) {
    if (qc_can_invert(scale)) return qc_codes_by(args, x, out, scale, zero, 1);
    return qc_codes_by(args, x, out, scale, zero, 0);
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
