/* Products of codes by the instructions of warpgroups, as `qc_product.cuh` says: int8, and e4m3. Codes are bytes, depth
 * a multiple of 16. A tile has 64 rows for each of its warpgroups, a slice 128 bytes of a row. One slice is multiplied
 * and the one before may still be, so that `Stages - 2` are on their way.
 *
 * e4m3: an instruction cuts off what lies 2^-13 below its largest addend, sum so far included (`qc_warpgroup.h`), so
 * sums of 128 codes are added up in float32 beside it, those of one slice while the products of the next are under way.
 * A slice then loses at most 4 * 34 * 2^-13 of its sum of magnitudes, or of the power of two of its largest codes where
 * that is more; 2^-12 is usual. Sums over the whole depth would lose what their addends grow past.
 */
#pragma once

#include "qc_gemm_f8.cuh"
#include "qc_warpgroup.h"

/* Operands of the calling warpgroup, in stages of shared memory. */
template <class Tile> struct qc_stages {
    static_assert(Tile::Slice == 128, "chunks of a slice change places as products want it");
    static_assert(Tile::WarpsN == 1 && Tile::WarpM == 16, "a warpgroup has 64 rows and all columns");
    static_assert(Tile::Stages >= 3, "two slices are multiplied while others are fetched");
    static constexpr int Bytes = Tile::Slice * (Tile::TileM + Tile::TileN), Ahead = Tile::Stages - 2;

    static QC_MEMBER unsigned char *at(int stage) { return qc::shared() + stage * Bytes; }
    static QC_MEMBER uint64_t left(int stage) {
        return qc::describe(at(stage) + qc::warpgroup() * (64 * Tile::Slice));
    }
    static QC_MEMBER uint64_t right(int stage) { return qc::describe(at(stage) + Tile::TileM * Tile::Slice); }
    static QC_MEMBER int next(int stage, int by) {
        return stage + by < Tile::Stages ? stage + by : stage + by - Tile::Stages;
    }
    template <class Fetch> static QC_MEMBER void start(Fetch fetch) {
        QC_UNROLL
        for (int i = 0; i < Ahead; ++i) {
            fetch(at(i), i);
            qc::commit();
        }
    }
    /* All lanes' copies of the slice are there, and all warpgroups are done with the slice before the last. */
    static QC_MEMBER void arrive() {
        qc::wait<Ahead - 1>();
        qc::expose();
        qc::sync();
    }
};

/* The sums of a block, brought to memory 128 columns at a time. */
template <class Tile, class Total>
QC_DEVICE void qc_finish_wide(const qc_product_args &args, const qc_spot &spot, Total (&total)[1][Tile::CountN][4]) {
    constexpr int wide = Tile::TileN < 128 ? Tile::TileN : 128, parts = Tile::TileN / wide;
    typedef qc_tile<Tile::TileM, wide, Tile::WarpsM, 1, Tile::Slice, Tile::Stages> Part;
    if (!qc_gather<Tile>(args, total)) return;
    QC_UNROLL
    for (int part = 0; part < parts; ++part) {
        Total some[1][Part::CountN][4];
        QC_UNROLL
        for (int j = 0; j < Part::CountN; ++j) {
            QC_UNROLL
            for (int k = 0; k < 4; ++k) some[0][j][k] = total[0][part * Part::CountN + j][k];
        }
        qc_finish<Part>(args, {spot.row, spot.column * parts + part}, some, false);
    }
}

template <class Tile> QC_DEVICE void qc_wgmma_i8(const qc_product_args &args) {
    typedef qc_stages<Tile> Stages;
    const qc_source<Tile, qc_s8> from(args, qc_spot_of_block(), args.depth, args.depth);
    const auto fetch = [&](unsigned char *to, int i) { from.fetch(to, i); };
    Stages::start(fetch);
    int total[1][Tile::CountN][4];
    qc_loop<Tile, qc_s8>::clear(total, 0);
    int stage = 0;
    for (int slice = 0; slice < from.share.count; ++slice) {
        Stages::arrive();
        const uint64_t left = Stages::left(stage), right = Stages::right(stage);
        qc::settle();
        QC_UNROLL
        for (int k = 0; k < Tile::Slice; k += qc::kDeep) {
            qc::multiply_s8<1>(total[0], qc::further(left, k), qc::further(right, k));
        }
        qc::close();
        fetch(Stages::at(Stages::next(stage, Stages::Ahead)), slice + Stages::Ahead);
        qc::commit();
        qc::await<1>();
        stage = Stages::next(stage, 1);
    }
    qc::await<0>(total[0]);
    qc::sync();
    qc_finish_wide<Tile>(args, from.spot, total);
}

/* Begins the products of a slice, alone in their sums, and the copies of a later one. */
template <class Tile, class Fetch>
QC_DEVICE void qc_begin_slice(float (&sums)[Tile::CountN][4], int slice, int stage, Fetch fetch) {
    typedef qc_stages<Tile> Stages;
    Stages::arrive();
    const uint64_t left = Stages::left(stage), right = Stages::right(stage);
    qc::settle();
    qc::multiply_e4m3<0>(sums, left, right);
    QC_UNROLL
    for (int k = qc::kDeep; k < Tile::Slice; k += qc::kDeep) {
        qc::multiply_e4m3<1>(sums, qc::further(left, k), qc::further(right, k));
    }
    qc::close();
    fetch(Stages::at(Stages::next(stage, Stages::Ahead)), slice + Stages::Ahead);
    qc::commit();
}
template <int Open, int Count> QC_DEVICE void qc_add_slice(float (&total)[Count][4], float (&sums)[Count][4]) {
    qc::await<Open>(sums);
    QC_UNROLL
    for (int j = 0; j < Count; ++j) {
        QC_UNROLL
        for (int k = 0; k < 4; ++k) total[j][k] = qc::add(total[j][k], sums[j][k]);
    }
}

template <class Tile> QC_DEVICE void qc_wgmma_f8(const qc_product_args &args) {
    typedef qc_stages<Tile> Stages;
    const int size = (args.depth + 15) / 16 * 16;
    const qc_source<Tile, qc_e4m3> from(args, qc_spot_of_block(), size, size);
    /* Slices go in pairs; where one lacks, it has zeros. */
    const int count = (from.share.count + 1) / 2 * 2, none = (size + Tile::Slice - 1) / Tile::Slice;
    const auto fetch = [&](unsigned char *to, int i) {
        if (i < count) from.fetch_of(to, from.input, from.weight, i < from.share.count ? from.share.first + i : none);
    };
    Stages::start(fetch);
    float total[1][Tile::CountN][4], first[Tile::CountN][4], second[Tile::CountN][4];
    qc_loop<Tile, qc_e4m3>::clear(total, 0);
    int stage = 0;
    for (int slice = 0; slice < count; slice += 2) {
        qc_begin_slice<Tile>(first, slice, stage, fetch);
        qc_begin_slice<Tile>(second, slice + 1, Stages::next(stage, 1), fetch);
        qc_add_slice<1>(total[0], first);
        qc_add_slice<0>(total[0], second);
        stage = Stages::next(stage, 2);
    }
    qc::sync();
    qc_finish_wide<Tile>(args, from.spot, total);
}
