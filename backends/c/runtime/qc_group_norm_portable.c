/* qc_group_norm on every level. */
#include "qc_group_norm.h"

/* Sums over positions of x, or of (x - centre)^2, of 16 channels. */
QC_INLINE qc_lanes qc_channel_sums(const float *x, size_t positions, size_t channels, const qc_lanes *centre) {
    qc_lanes sum[4] = {qc_splat(0.0f), qc_splat(0.0f), qc_splat(0.0f), qc_splat(0.0f)};
    for (size_t p = 0; p < positions; p += 4) {
        QC_UNROLL for (size_t i = 0; i < 4; ++i) {
            if (p + i >= positions) break;
            const qc_lanes some = qc_load(x + (p + i) * channels);
            if (centre) {
                const qc_lanes apart = qc_minus(some, *centre);
                sum[i] = qc_fma(apart, apart, sum[i]);
            } else {
                sum[i] = qc_plus(sum[i], some);
            }
        }
    }
    return qc_plus(qc_plus(sum[0], sum[2]), qc_plus(sum[1], sum[3]));
}

/* Every channel of a group gets the mean of the sums of its channels. */
static void qc_group_means(const qc_group_norm_args *args, float *sums) {
    const size_t width = args->channels / args->groups;
    const float count = (float)(args->positions * width);
    for (size_t g = 0; g < args->groups; ++g) {
        float total = 0.0f;
        for (size_t c = 0; c < width; ++c) total = total + sums[g * width + c];
        for (size_t c = 0; c < width; ++c) sums[g * width + c] = total / count;
    }
}

void qc_group_norm_portable(const qc_group_norm_args *args, size_t begin, size_t end) {
    const size_t channels = args->channels, wide = (channels + QC_LANES - 1) / QC_LANES * QC_LANES;
    for (size_t m = begin; m < end; ++m) {
        const float *x = args->input + m * args->positions * channels;
        float *out = args->out + m * args->positions * channels;
        float *mean = args->scratch + m * 2 * wide, *scale = mean + wide;
        for (size_t c = 0; c < channels; c += QC_LANES)
            qc_store(mean + c, qc_channel_sums(x + c, args->positions, channels, NULL));
        qc_group_means(args, mean);
        for (size_t c = 0; c < channels; c += QC_LANES) {
            const qc_lanes centre = qc_load(mean + c);
            qc_store(scale + c, qc_channel_sums(x + c, args->positions, channels, &centre));
        }
        qc_group_means(args, scale);
        for (size_t c = 0; c < channels; ++c) scale[c] = 1.0f / sqrtf(scale[c] + args->eps);
        for (size_t p = 0; p < args->positions; ++p, x += channels, out += channels) {
            for (size_t c = 0; c < channels; ++c) {
                const float y = (x[c] - mean[c]) * scale[c];
                out[c] = fmaf(y, args->weight ? args->weight[c] : 1.0f, args->bias ? args->bias[c] : 0.0f);
            }
        }
    }
}
