/* Fast product of rows with a Hadamard matrix on consecutive blocks, then codes with a scale for every row.
 *
 *   y = ((x * sign) * factor) H, H = C x S, where S is Sylvester's of 2^levels and C [core, core] of plus and minus
 *   one; codes of y as `qc_codes.cuh` says
 *
 * All in float32. Sums: butterflies (a + b, a - b) at distances 1, 2, 4, then those between registers of a lane, at the
 * largest distances, then the others in rising order; with a core, the sum over i of C[i][j] * run i follows, one after
 * the other from 0. The meaning is qc.hadamard, whose sums have another order: (levels + core) * 2^-24 of the sum of
 * magnitudes apart at most, and codes apart only next to ties.
 *
 * A row of up to 2^Log elements is held by 2^(Log - Each) lanes, 2^Each elements in each: first as units of eight
 * neighbours, 8 * lanes apart, then, through shared memory, as runs of elements 8 apart, at last as units again. Two
 * more distances are between lanes of a warp, and the longest rows go through shared memory once more. Chunks of four
 * floats lie where `qc_hadamard_place` says: all three kinds of access are free of bank conflicts.
 *
 * Source: Fino and Algazi 1976, "Unified Matrix Treatment of the Fast Walsh-Hadamard Transform"; the matrices are those
 * of qcompiler.hadamard.
 */
#pragma once

#include "qc_codes.cuh"

struct qc_hadamard_args {
    const void *input;    /* [rows, stride], of which `width` count; at a multiple of 16 bytes */
    void *out;            /* [rows, out_width] codes or reals */
    float *scale;         /* [rows], or NULL */
    int32_t *zero;        /* [rows], as stored, or NULL */
    int32_t *sum;         /* [rows], of the codes as stored, or NULL; not for e4m3 */
    const uint8_t *signs; /* bit k of byte u: element 8 u + k is negated; or NULL */
    const float *matrix;  /* C, [core, core], NULL for core 1 */
    int32_t rows;
    int32_t width;  /* a multiple of the block, core * 2^levels, and of 8 */
    int32_t stride; /* a multiple of 8 */
    int32_t out_width; /* a multiple of 8, less than 32 more than `width`; that of reals is `width` */
    int32_t levels; /* at least 3 with a core */
    int32_t core;
    int32_t format; /* one of QC_CODES */
    int32_t symmetric;
    float factor; /* 1 / sqrt(block) for an orthogonal product */
    float lowest; /* codes of the program */
    float highest;
    float shift;       /* what is stored less the code */
    float fixed_scale; /* 0: every row has its own */
    float fixed_zero;
};

/* Where element e of a row lies in shared memory. */
template <int Each> QC_DEVICE int qc_hadamard_place(int e) {
    const int chunk = e >> 2;
    return e ^ ((chunk >> 3 & 1) << 2 | (chunk >> (Each + 1) & 3) << 3);
}

/* Element e + offset, where `base` is the place of e and e and offset have no bit in common: what lies above the bits
 * that are exchanged is then an offset that the instruction holds. */
template <int Each> QC_DEVICE float *qc_hadamard_spot(float *shared, int base, int offset) {
    const int apart = qc_hadamard_place<Each>(offset);
    return shared + (base ^ (apart & 28)) + (apart & ~28);
}
template <int Each> QC_DEVICE void qc_read_unit(float (&out)[8], float *shared, int base, int offset) {
    QC_UNROLL
    for (int half = 0; half < 2; ++half) {
        const float4 got = qc::load_shared<float4>(qc_hadamard_spot<Each>(shared, base, offset | 4 * half));
        out[4 * half] = got.x, out[4 * half + 1] = got.y, out[4 * half + 2] = got.z, out[4 * half + 3] = got.w;
    }
}
template <int Each> QC_DEVICE void qc_write_unit(float *shared, int base, int offset, const float (&from)[8]) {
    QC_UNROLL
    for (int half = 0; half < 2; ++half)
        qc::store_shared(qc_hadamard_spot<Each>(shared, base, offset | 4 * half),
                         make_float4(from[4 * half], from[4 * half + 1], from[4 * half + 2], from[4 * half + 3]));
}

/* Those of eight whose bit is set. */
QC_DEVICE void qc_negate(float (&x)[8], uint32_t signs) {
    QC_UNROLL
    for (int k = 0; k < 8; ++k) x[k] = qc::from_bits(qc::bits(x[k]) ^ (signs << (31 - k) & 0x80000000u));
}

template <int Each, int Distance> QC_DEVICE void qc_butterflies(float (&x)[1 << Each]) {
    QC_UNROLL
    for (int i = 0; i < 1 << Each; ++i) {
        if (i & Distance) continue;
        const float a = x[i], b = x[i | Distance];
        x[i] = a + b;
        x[i | Distance] = a - b;
    }
}
/* Bits First to Last - 1 of the place in registers, which are bits `at` and on of the place in the row. */
template <int Each, int First, int Last> QC_DEVICE void qc_levels(float (&x)[1 << Each], int at, int levels) {
    if constexpr (First < Last) {
        if (at < levels) qc_butterflies<Each, 1 << First>(x);
        qc_levels<Each, First + 1, Last>(x, at + 1, levels);
    }
}

/* One pass through shared memory over bits From to To - 1: registers take Bit and on, the warp's lanes what is left. */
template <int Each, int Bit, int From, int To>
QC_DEVICE void qc_hadamard_pass(float (&x)[1 << Each], float *shared, int lane, int levels) {
    const int base = qc_hadamard_place<Each>((lane & ((1 << Bit) - 1)) | lane >> Bit << (Bit + Each));
    constexpr int inside = To < Bit + Each ? To : Bit + Each;
    QC_UNROLL
    for (int r = 0; r < 1 << Each; ++r) x[r] = qc::load_shared<float>(qc_hadamard_spot<Each>(shared, base, r << Bit));
    qc_levels<Each, From - Bit, inside - Bit>(x, From, levels);
    QC_UNROLL
    for (int bit = inside; bit < To; ++bit) {
        if (bit >= levels) continue;
        const unsigned apart = 1u << (bit - Each);
        const float sign = lane & apart ? -1.0f : 1.0f;
        QC_UNROLL
        for (int r = 0; r < 1 << Each; ++r) x[r] = qc::fma(x[r], sign, qc::shuffle_xor(x[r], apart));
    }
    QC_UNROLL
    for (int r = 0; r < 1 << Each; ++r) qc::store_shared<float>(qc_hadamard_spot<Each>(shared, base, r << Bit), x[r]);
}

/* Where task `task` of a row begins that makes Outs runs of eight neighbours, and its first run j. */
template <int Outs> struct qc_core_task {
    int first, group;
    QC_MEMBER qc_core_task(const qc_hadamard_args &args, int task) {
        const int run = 1 << args.levels, eights = run / 8, groups = args.core / Outs;
        group = task / eights % groups * Outs;
        first = task / eights / groups * args.core * run + task % eights * 8;
    }
};

/* The sums over i for Outs runs j of eight neighbours each. */
template <int Each, int Outs>
QC_DEVICE void qc_core_sums(float (&out)[Outs][8], const qc_hadamard_args &args, float *shared, int task) {
    const qc_core_task<Outs> at(args, task);
    QC_UNROLL
    for (int j = 0; j < Outs; ++j) {
        QC_UNROLL
        for (int k = 0; k < 8; ++k) out[j][k] = 0.0f;
    }
    if (at.first >= args.width) return;
    const float *matrix = args.matrix + at.group;
    /* Registers are full: more than one step at a time would spill. */
    _Pragma("unroll 1")
    for (int i = 0; i < args.core; ++i) {
        float x[8], sign[Outs];
        qc_read_unit<Each>(x, shared, qc_hadamard_place<Each>(at.first + (i << args.levels)), 0);
        if constexpr (Outs == 4) {
            const float4 got = qc::load_global<float4>(matrix + i * args.core);
            sign[0] = got.x, sign[1] = got.y, sign[2] = got.z, sign[3] = got.w;
        } else {
            for (int j = 0; j < Outs; ++j) sign[j] = qc::load_global<float>(matrix + i * args.core + j);
        }
        QC_UNROLL
        for (int j = 0; j < Outs; ++j) {
            QC_UNROLL
            for (int k = 0; k < 8; ++k) out[j][k] = qc::fma(sign[j], x[k], out[j][k]);
        }
    }
}
/* Replaces a row in shared memory by its product with the core. */
template <int Each, int Lanes> QC_DEVICE void qc_core_runs(const qc_hadamard_args &args, float *shared, int lane) {
    constexpr int units = 1 << (Each - 3), outs = units < 4 ? units : 4;
    float out[units / outs][outs][8];
    QC_UNROLL
    for (int i = 0; i < units / outs; ++i) qc_core_sums<Each>(out[i], args, shared, lane + Lanes * i);
    qc_meet<Lanes>();
    QC_UNROLL
    for (int i = 0; i < units / outs; ++i) {
        const qc_core_task<outs> at(args, lane + Lanes * i);
        if (at.first >= args.width) continue;
        QC_UNROLL
        for (int j = 0; j < outs; ++j) {
            const int column = at.first + ((at.group + j) << args.levels);
            qc_write_unit<Each>(shared, qc_hadamard_place<Each>(column), 0, out[i][j]);
        }
    }
    qc_meet<Lanes>();
}

template <class In, int Log, int Each, int Rows, bool Partial>
QC_DEVICE void qc_hadamard(const qc_hadamard_args &args) {
    constexpr int lanes = 1 << (Log - Each), units = 1 << (Each - 3), middle = 3 + Log - Each;
    const int lane = (int)qc::thread() % lanes, place = (int)qc::thread() / lanes;
    const int64_t row = (int64_t)qc::block_x() * Rows + place;
    if (row >= args.rows) return;
    float *shared = (float *)qc::shared() + (place << Log), *room = (float *)qc::shared() + (Rows << Log);
    const int levels = Partial ? args.levels : Log, base = qc_hadamard_place<Each>(8 * lane);
    int columns[units];
    union {
        float unit[units][8];
        float all[1 << Each];
    } x;
    uint32_t signs[units];
    QC_UNROLL
    for (int i = 0; i < units; ++i) {
        columns[i] = 8 * (lane + lanes * i);
        signs[i] = args.signs && columns[i] < args.width ? args.signs[columns[i] / 8] : 0;
    }
    qc_load_vectors<In, lanes>(x.unit, args.input, row * args.stride, args.width, lane);
    if (args.signs) {
        QC_UNROLL
        for (int i = 0; i < units; ++i) qc_negate(x.unit[i], signs[i]);
    }
    QC_UNROLL
    for (int i = 0; i < 1 << Each; ++i) x.all[i] = qc::multiply(x.all[i], args.factor);
    qc_levels<Each, 0, 3>(x.all, 0, levels);
    qc_levels<Each, 3, Each>(x.all, middle, levels);
    QC_UNROLL
    for (int i = 0; i < units; ++i) qc_write_unit<Each>(shared, base, 8 * lanes * i, x.unit[i]);
    qc_meet<lanes>();
    constexpr int last = Log - Each > 3 + Each ? Log - Each : 3 + Each;
    constexpr int once = middle - 3 <= Each + 2 ? middle : last;
    static_assert(once <= Each + 5, "lanes of one warp take two bits at most");
    if (levels > 3) {
        qc_hadamard_pass<Each, 3, 3, once>(x.all, shared, lane, levels);
        qc_meet<lanes>();
    }
    if constexpr (once < middle) {
        if (levels > once) {
            qc_hadamard_pass<Each, Log - Each, once, middle>(x.all, shared, lane, levels);
            qc_meet<lanes>();
        }
    }
    if (Partial && args.core > 1) qc_core_runs<Each, lanes>(args, shared, lane);
    QC_UNROLL
    for (int i = 0; i < units; ++i) qc_read_unit<Each>(x.unit[i], shared, base, 8 * lanes * i);
    qc_store_row<In, lanes>(args, x.unit, columns, row, lane, room);
}
