/* One product of a warpgroup over operands that are brought as they shall lie in shared memory, and ways to do it wrong. */
#pragma once

#include "qc_warpgroup.h"

struct qc_warpgroup_probe_args {
    const void *a;
    const void *b;
    const void *c;
    void *out;
    int32_t further;
};

enum { RIGHT, HIDDEN, UNSETTLED, TOUCHED, EARLY, SHIFTED, APART, OVERWRITTEN };

struct qc_bytes {
    typedef int Sum;
    template <int Adds, int Count> static QC_MEMBER void go(int (&c)[Count][4], uint64_t a, uint64_t b) {
        qc::multiply_s8<Adds>(c, a, b);
    }
};
struct qc_eights {
    typedef float Sum;
    template <int Adds, int Count> static QC_MEMBER void go(float (&c)[Count][4], uint64_t a, uint64_t b) {
        qc::multiply_e4m3<Adds>(c, a, b);
    }
};

/* Lane l has sums 4 Count l and on of c and out. */
template <class Product, int Count, int Adds, int Way>
QC_DEVICE void qc_probe_warpgroup(const qc_warpgroup_probe_args &args) {
    typedef typename Product::Sum Sum;
    unsigned char *left = qc::shared() + (Way == SHIFTED ? 128 : 0), *right = qc::shared() + 64 * 128;
    for (int i = (int)qc::thread(); i < (64 + 8 * Count) * 8; i += (int)qc::threads()) {
        const char *from = i < 512 ? (const char *)args.a + 16 * i : (const char *)args.b + 16 * (i - 512);
        qc::store_shared(qc::shared() + 16 * i, qc::load_global<uint4>(from));
    }
    if (Way != HIDDEN) qc::expose();
    qc::sync();
    Sum c[Count][4];
    QC_UNROLL
    for (int i = 0; i < 4 * Count; ++i) c[i / 4][i % 4] = ((const Sum *)args.c)[4 * Count * qc::thread() + i];
    if (Way != UNSETTLED) qc::settle();
    const int by = Way == APART && qc::warp() == 1 ? 32 : args.further;
    Product::template go<Adds>(c, qc::further(qc::describe(left), by), qc::further(qc::describe(right), by));
    if (Way == TOUCHED) c[0][0] += 1;
    qc::close();
    if (Way == OVERWRITTEN) qc::store_shared(left + 16 * qc::thread(), uint4{0, 0, 0, 0});
    if (Way != EARLY) qc::await<0>(c);
    QC_UNROLL
    for (int i = 0; i < 4 * Count; ++i) ((Sum *)args.out)[4 * Count * qc::thread() + i] = c[i / 4][i % 4];
}

/* Adds what a product under way is making, which makes the assembler wait for each. */
QC_DEVICE void qc_probe_each_alone(const qc_warpgroup_probe_args &args) {
    int c[16][4] = {}, sum = 0;
    for (int i = 0; i < args.further; ++i) {
        qc::settle();
        qc::multiply_s8<1>(c, qc::describe(qc::shared()), qc::describe(qc::shared() + 64 * 128));
        qc::close();
        sum += c[0][0];
        qc::await<1>();
    }
    qc::await<0>(c);
    ((int *)args.out)[qc::thread()] = sum + c[1][1];
}

/* Rows of A in registers, four words of a lane; as above with halves, of which a product takes 16. */
template <bool Bfloat, int Count, bool Touched> QC_DEVICE void qc_probe_halves(const qc_warpgroup_probe_args &args) {
    for (int i = (int)qc::thread(); i < 8 * Count * 8; i += (int)qc::threads())
        qc::store_shared(qc::shared() + 16 * i, qc::load_global<uint4>((const char *)args.b + 16 * i));
    qc::expose();
    qc::sync();
    const uint4 four = qc::load_global<uint4>((const char *)args.a + 16 * qc::thread());
    uint32_t a[4] = {four.x, four.y, four.z, four.w};
    float c[Count][4];
    QC_UNROLL
    for (int i = 0; i < 4 * Count; ++i) c[i / 4][i % 4] = ((const float *)args.c)[4 * Count * qc::thread() + i];
    qc::settle();
    const uint64_t right = qc::further(qc::describe(qc::shared()), args.further);
    if (Bfloat) qc::multiply_bf16(c, a, right);
    else qc::multiply_f16(c, a, right);
    if (Touched) a[0] += 1;
    qc::close();
    qc::await<0>(c);
    QC_UNROLL
    for (int i = 0; i < 4 * Count; ++i) ((float *)args.out)[4 * Count * qc::thread() + i] = c[i / 4][i % 4];
}
