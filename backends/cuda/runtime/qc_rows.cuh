/* Rows of reals spread over lanes: how they are read, and what a row is as a whole.
 *
 * A row belongs to Lanes lanes, 32 or a whole block. Its elements are taken eight neighbours at a time, a unit: lane l
 * holds units l, l + Lanes, l + 2 Lanes, ..., as float32. What lies beyond the row is zero.
 */
#pragma once

#include "qc_device.h"
#include "qc_store.cuh"

/* Eight neighbours of 16 bits are in one vector of 16 bytes, of float32 in two. */
QC_DEVICE void qc_unpack(qc_half, const uint4 (&raw)[1], float (&out)[8]) {
    const uint32_t words[4] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w};
    QC_UNROLL
    for (int i = 0; i < 4; ++i) {
        out[2 * i] = qc::from_half((uint16_t)words[i]);
        out[2 * i + 1] = qc::from_half((uint16_t)(words[i] >> 16));
    }
}
QC_DEVICE void qc_unpack(qc_bfloat, const uint4 (&raw)[1], float (&out)[8]) {
    const uint32_t words[4] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w};
    QC_UNROLL
    for (int i = 0; i < 4; ++i) {
        out[2 * i] = qc::from_bits(words[i] << 16);
        out[2 * i + 1] = qc::from_bits(words[i] & 0xffff0000u);
    }
}
QC_DEVICE void qc_unpack(qc_float, const uint4 (&raw)[2], float (&out)[8]) {
    QC_UNROLL
    for (int i = 0; i < 2; ++i) {
        out[4 * i] = qc::from_bits(raw[i].x);
        out[4 * i + 1] = qc::from_bits(raw[i].y);
        out[4 * i + 2] = qc::from_bits(raw[i].z);
        out[4 * i + 3] = qc::from_bits(raw[i].w);
    }
}
QC_DEVICE float qc_real(qc_half, uint16_t code) { return qc::from_half(code); }
QC_DEVICE float qc_real(qc_bfloat, uint16_t code) { return qc::from_bfloat(code); }
QC_DEVICE float qc_real(qc_float, float value) { return value; }

/* A row of `width` elements, a multiple of 8, that begins at a multiple of 16 bytes; raw, lanes go on meanwhile. */
template <class Element, int Lanes, int Units, int Vectors>
QC_DEVICE void qc_fetch_vectors(uint4 (&raw)[Units][Vectors], const Element *row, int width, int lane) {
    QC_UNROLL
    for (int i = 0; i < Units; ++i) {
        const int column = 8 * (lane + Lanes * i);
        QC_UNROLL
        for (int k = 0; k < Vectors; ++k) {
            raw[i][k] = make_uint4(0, 0, 0, 0);
            if (column < width) raw[i][k] = qc::load_stream<uint4>((const uint4 *)(row + column) + k);
        }
    }
}
/* The same as floats. */
template <class In, int Lanes, int Units>
QC_DEVICE void qc_load_vectors(float (&out)[Units][8], const void *input, int64_t first, int width, int lane) {
    typedef typename In::type Element;
    uint4 raw[Units][sizeof(Element) / 2];
    qc_fetch_vectors<Element, Lanes>(raw, (const Element *)input + first, width, lane);
    QC_UNROLL
    for (int i = 0; i < Units; ++i) qc_unpack(In(), raw[i], out[i]);
}

/* Eight neighbours of a row of `width` elements, zeros beyond it. */
template <class In>
QC_DEVICE void qc_load_eight(float (&out)[8], const typename In::type *row, int column, int width) {
    QC_UNROLL
    for (int k = 0; k < 8; ++k) out[k] = column + k < width ? qc_real(In(), row[column + k]) : 0.0f;
}
/* Whether all rows begin at multiples of 16 bytes, and are read in vectors. */
QC_DEVICE bool qc_in_vectors(const void *input, int width, int stride) {
    return (width | stride) % 8 == 0 && (uint64_t)input % 16 == 0;
}
/* Any row of `width` elements of kind In. */
template <class In, int Lanes, int Units>
QC_DEVICE void qc_load_row(float (&out)[Units][8], const void *input, int64_t first, int width, int stride, int lane) {
    if (qc_in_vectors(input, width, stride)) {
        qc_load_vectors<In, Lanes>(out, input, first, width, lane);
        return;
    }
    const typename In::type *row = (const typename In::type *)input + first;
    QC_UNROLL
    for (int i = 0; i < Units; ++i) qc_load_eight<In>(out[i], row, 8 * (lane + Lanes * i), width);
}

/* All lanes of a row have come this far, and see what the others wrote to shared memory. */
template <int Lanes> QC_DEVICE void qc_meet() {
    if (Lanes == 32)
        qc::sync_warp();
    else
        qc::sync();
}

/* Combines each of Count values over the lanes of a row: within a warp with lanes 16, 8, 4, 2 and 1 apart, then warps
 * in the same way. `room` has Count * Lanes / 32 floats of shared memory that nothing else uses until the next barrier.
 */
template <int Lanes, int Count, class Combine>
QC_DEVICE void qc_combine_row(float (&values)[Count], float *room, Combine combine) {
    QC_UNROLL
    for (int i = 0; i < Count; ++i) {
        QC_UNROLL
        for (int apart = 16; apart; apart /= 2)
            values[i] = combine(values[i], qc::shuffle_xor(values[i], (unsigned)apart));
    }
    if (Lanes == 32) return;
    constexpr int warps = Lanes / 32;
    const int lane = (int)qc::lane(), warp = (int)qc::warp() % warps;
    if (lane < Count) {
        QC_UNROLL
        for (int i = 0; i < Count; ++i)
            if (lane == i) room[i * warps + warp] = values[i];
    }
    qc::sync();
    QC_UNROLL
    for (int i = 0; i < Count; ++i) {
        values[i] = room[i * warps + lane % warps];
        QC_UNROLL
        for (int apart = warps / 2; apart; apart /= 2)
            values[i] = combine(values[i], qc::shuffle_xor(values[i], (unsigned)apart));
    }
}
