/* qc_hadamard on every level: distances below 16 within lanes, others between them. */
#include "qc_hadamard.h"

static const float qc_turns[4][QC_LANES] = {
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
    {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
    {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1},
};

/* Distances 1 to 8: the second of a pair changes its sign and the first is added. */
static void qc_within_lanes(float *x, size_t count) {
    for (size_t i = 0; i < count; i += QC_LANES) {
        qc_lanes a = qc_load(x + i);
        a = qc_fma(a, qc_load(qc_turns[0]), qc_swapped(a, 1));
        a = qc_fma(a, qc_load(qc_turns[1]), qc_swapped(a, 2));
        a = qc_fma(a, qc_load(qc_turns[2]), qc_swapped(a, 4));
        a = qc_fma(a, qc_load(qc_turns[3]), qc_swapped(a, 8));
        qc_store(x + i, a);
    }
}

static void qc_between_lanes(float *x, size_t count, size_t distance) {
    for (size_t i = 0; i < count; i += 2 * distance) {
        for (size_t j = i; j < i + distance; j += QC_LANES) {
            const qc_lanes a = qc_load(x + j), b = qc_load(x + j + distance);
            qc_store(x + j, qc_plus(a, b));
            qc_store(x + j + distance, qc_minus(a, b));
        }
    }
}

/* Two distances at once, as often as there are two, to go through memory half as many times. */
static void qc_between_four(float *x, size_t count, size_t distance) {
    for (size_t i = 0; i < count; i += 4 * distance) {
        for (size_t j = i; j < i + distance; j += QC_LANES) {
            float *p = x + j;
            const qc_lanes a = qc_load(p), b = qc_load(p + distance), c = qc_load(p + 2 * distance);
            const qc_lanes d = qc_load(p + 3 * distance), ab = qc_plus(a, b), cd = qc_plus(c, d);
            const qc_lanes apart = qc_minus(a, b), other = qc_minus(c, d);
            qc_store(p, qc_plus(ab, cd));
            qc_store(p + distance, qc_plus(apart, other));
            qc_store(p + 2 * distance, qc_minus(ab, cd));
            qc_store(p + 3 * distance, qc_minus(apart, other));
        }
    }
}

static void qc_butterflies(float *x, size_t count) {
    size_t distance = 1;
    if (count >= QC_LANES) {
        qc_within_lanes(x, count);
        for (distance = QC_LANES; 4 * distance <= count; distance *= 4) qc_between_four(x, count, distance);
        if (distance < count) qc_between_lanes(x, count, distance);
        return;
    }
    for (; distance < count; distance *= 2) {
        for (size_t i = 0; i < count; ++i) {
            if (i & distance) continue;
            const float a = x[i], b = x[i + distance];
            x[i] = a + b;
            x[i + distance] = a - b;
        }
    }
}

/* Run j becomes the sum over i of matrix[i][j] times run i. */
static void qc_cores(const qc_hadamard_args *args, float *x, size_t run) {
    float kept[QC_HADAMARD_CORE * QC_LANES];
    for (size_t at = 0; at < run; at += QC_LANES) {
        const size_t left = run - at;
        for (size_t i = 0; i < args->core; ++i)
            qc_store(kept + i * QC_LANES, left < QC_LANES ? qc_load_some(x + i * run + at, left, 0.0f) : qc_load(x + i * run + at));
        for (size_t j = 0; j < args->core; ++j) {
            qc_lanes sum = qc_splat(0.0f);
            for (size_t i = 0; i < args->core; ++i)
                sum = qc_fma(qc_splat(args->matrix[i * args->core + j]), qc_load(kept + i * QC_LANES), sum);
            if (left < QC_LANES)
                qc_store_some(x + j * run + at, left, sum);
            else
                qc_store(x + j * run + at, sum);
        }
    }
}

void qc_hadamard_portable(const qc_hadamard_args *args, size_t begin, size_t end) {
    const size_t run = args->block / args->core;
    for (size_t m = begin; m < end; ++m) {
        const float *x = args->input + m * args->input_stride;
        float *out = args->out + m * args->out_stride;
        if (args->signs)
            for (size_t i = 0; i < args->width; ++i) out[i] = x[i] * args->signs[i] * args->scale;
        else
            for (size_t i = 0; i < args->width; ++i) out[i] = x[i] * args->scale;
        for (size_t first = 0; first < args->width; first += run) qc_butterflies(out + first, run);
        for (size_t first = 0; first < args->width && args->core > 1; first += args->block)
            qc_cores(args, out + first, run);
    }
}
