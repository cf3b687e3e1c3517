/* Single instructions, called by lanes that bring operands from memory and take results there. */
#pragma once

#include "qc_device.h"

struct qc_probe_args {
    const void *a;
    const void *b;
    const void *c;
    void *out;
    int32_t count;
};

/* Lane l brings words 4 l of a, 2 l of b and 4 l of c, and takes the sums to words 4 l of out. */
template <class Sum, void (*Product)(Sum (&)[4], const uint32_t (&)[4], const uint32_t (&)[2])>
QC_DEVICE void qc_probe_product(const qc_probe_args &args) {
    uint32_t a[4], b[2];
    Sum c[4];
    for (int i = 0; i < 4; ++i) a[i] = ((const uint32_t *)args.a)[4 * qc::lane() + i];
    for (int i = 0; i < 2; ++i) b[i] = ((const uint32_t *)args.b)[2 * qc::lane() + i];
    for (int i = 0; i < 4; ++i) c[i] = ((const Sum *)args.c)[4 * qc::lane() + i];
    Product(c, a, b);
    for (int i = 0; i < 4; ++i) ((Sum *)args.out)[4 * qc::lane() + i] = c[i];
}

/* Thirty-two rows of 16 bytes of a pass through shared memory and are loaded as four matrices. */
template <bool Transposed> QC_DEVICE void qc_probe_matrices(const qc_probe_args &args) {
    qc::store_shared(qc::shared() + 16 * qc::lane(), qc::load_global<uint4>((const char *)args.a + 16 * qc::lane()));
    qc::sync_warp();
    uint32_t got[4];
    if (Transposed) qc::load_matrices_transposed(got, qc::shared() + 16 * qc::lane());
    else qc::load_matrices(got, qc::shared() + 16 * qc::lane());
    for (int i = 0; i < 4; ++i) ((uint32_t *)args.out)[4 * qc::lane() + i] = got[i];
}

/* out[i] = Function(a[i], b[i], c[i]) on words. */
template <uint32_t (*Function)(uint32_t, uint32_t, uint32_t)> QC_DEVICE void qc_probe_words(const qc_probe_args &args) {
    for (int i = (int)qc::thread(); i < args.count; i += (int)qc::threads())
        ((uint32_t *)args.out)[i] =
            Function(((const uint32_t *)args.a)[i], ((const uint32_t *)args.b)[i], ((const uint32_t *)args.c)[i]);
}
QC_DEVICE uint32_t qc_probe_multiply(uint32_t a, uint32_t b, uint32_t) { return qc::half2_multiply(a, b); }
QC_DEVICE uint32_t qc_probe_add(uint32_t a, uint32_t b, uint32_t) { return qc::half2_add(a, b); }
QC_DEVICE uint32_t qc_probe_half(uint32_t a, uint32_t, uint32_t) { return qc::to_half(qc::from_bits(a)); }
QC_DEVICE uint32_t qc_probe_bfloat(uint32_t a, uint32_t, uint32_t) { return qc::to_bfloat(qc::from_bits(a)); }
QC_DEVICE uint32_t qc_probe_dot(uint32_t a, uint32_t b, uint32_t c) { return (uint32_t)qc::dot4(a, b, (int)c); }

/* Every lane gives its number to its neighbour, through shared memory; the barrier between is there, or not. */
template <bool Barrier> QC_DEVICE void qc_probe_neighbour(const qc_probe_args &args) {
    const unsigned lane = qc::thread();
    qc::store_shared(qc::shared() + 4 * lane, lane);
    if (Barrier) qc::sync();
    ((uint32_t *)args.out)[lane] = qc::load_shared<uint32_t>(qc::shared() + 4 * ((lane + 1) % qc::threads()));
}
/* Copies 16 bytes a lane, and waits for them or not. */
template <bool Waits> QC_DEVICE void qc_probe_copy(const qc_probe_args &args) {
    qc::copy_async<16>(qc::shared() + 16 * qc::lane(), (const char *)args.a + 16 * qc::lane(), args.count);
    qc::commit();
    if (Waits) qc::wait<0>();
    qc::store_global((char *)args.out + 16 * qc::lane(), qc::load_shared<uint4>(qc::shared() + 16 * qc::lane()));
}
/* One lane leaves before the others meet. */
QC_DEVICE void qc_probe_early(const qc_probe_args &) {
    if (qc::lane() == 3) return;
    qc::sync_warp();
}
/* Two halves of a warp meet in different operations. */
QC_DEVICE void qc_probe_apart(const qc_probe_args &) {
    if (qc::lane() < 16) qc::sync_warp();
    else qc::shuffle(1, 0);
}
QC_DEVICE void qc_probe_misaligned(const qc_probe_args &args) { qc::load_global<uint4>((const char *)args.a + 4); }
/* Lane l reads the word at `count` l. */
QC_DEVICE void qc_probe_stride(const qc_probe_args &args) {
    const unsigned at = qc::lane() * (unsigned)args.count;
    qc::store_global((uint32_t *)args.out + qc::lane(), qc::load_shared<uint32_t>(qc::shared() + 4 * at));
}
