/* The main loop of all products of codes on matrix units: a block computes TileM x TileN sums of input[m, k] *
 * weight[n, k].
 *
 * Operands are rows of bytes, whatever codes they hold: 32 bytes of a row of inputs are what one matrix instruction
 * takes, as 32 bytes, 64 nibbles or 256 bits. Slices of `Slice` bytes of inputs, and of the weights that belong to
 * them, lie in shared memory, `Stages` of them, all but the one in use on their way. A row of a slice has chunks of
 * 16 bytes; chunk c of row r lies at place c ^ (r * chunks / 8 % chunks), so that eight rows of one chunk, which a
 * load of matrices reads at once, lie in different banks. Registers hold the operands of two steps: one is
 * multiplied while the next is loaded, across slices too, so that the one barrier of a slice stands behind products
 * that are still under way.
 *
 * A Product says what is multiplied:
 *   Total                  of sums: int or float
 *   kWeightBytes           bytes of weights for 16 bytes of inputs: 16, or 8 or 4 where weights alone are narrower
 *   kPlanes                matrix instructions of a step
 *   left, right, multiply  operands of one plane from what was loaded, and the instruction
 */
#pragma once

#include "qc_device.h"

template <int TileM_, int TileN_, int WarpsM_, int WarpsN_, int Slice_, int Stages_> struct qc_tile {
    static constexpr int TileM = TileM_, TileN = TileN_, WarpsM = WarpsM_, WarpsN = WarpsN_;
    static constexpr int Slice = Slice_, Stages = Stages_, Threads = 32 * WarpsM * WarpsN;
    static constexpr int WarpM = TileM / WarpsM, WarpN = TileN / WarpsN; /* what a warp computes */
    static constexpr int CountM = WarpM / 16, CountN = WarpN / 8;        /* in instructions */
    static constexpr int Steps = Slice / 32;
    static_assert(CountN % 4 == 0, "weights are loaded up to 32 columns at a time");
    static_assert(Steps % 2 == 0, "operands alternate between two sets of registers");
};

/* Rows in memory, `size` bytes each, a multiple of 16; what lies behind them counts as zeros. */
struct qc_rows {
    const unsigned char *at;
    int count, size;
};

/* Where a chunk of 16 bytes lies in a slice whose rows have `Slice` bytes. */
template <int Slice> QC_DEVICE int qc_place(int row, int chunk) {
    constexpr int chunks = Slice / 16;
    return row * Slice + (chunk ^ (row * chunks / 8 % chunks)) * 16;
}

/* Begins the copy of `Slice` bytes from `k` on of `Tile` rows. A lane's copies lie a fixed number of rows apart, so
 * that it needs one address; the steps between are the same in all lanes. */
template <int Tile, int Slice, int Threads>
QC_DEVICE void qc_fetch(unsigned char *to, const qc_rows &from, int first, int k) {
    constexpr int chunks = Slice / 16, at_once = Threads / chunks;
    static_assert(Threads % chunks == 0 && at_once % 8 == 0, "places repeat after eight rows");
    const int row = (int)qc::thread() / chunks, chunk = (int)qc::thread() % chunks, at = k + chunk * 16;
    const int rows = at < from.size ? from.count - first - row : 0;
    const unsigned char *source = from.at + ((int64_t)(first + row) * from.size + at);
    unsigned char *target = to + qc_place<Slice>(row, chunk);
    QC_UNROLL
    for (int i = 0; i < (Tile + at_once - 1) / at_once; ++i) {
        if (Tile % at_once && i * at_once + row >= Tile) break;
        qc::copy_async<16>(target + i * at_once * Slice, source + (int64_t)i * at_once * from.size,
                           i * at_once < rows ? 16 : 0);
    }
}

/* Two tiles of a block's place in the grid, in an order in which blocks that run at once share rows and columns: down
 * eight rows of tiles, then on to the next column. */
struct qc_spot {
    int row, column;
};
QC_DEVICE qc_spot qc_spot_of_block() {
    constexpr int high = 8;
    const int wide = (int)qc::blocks_y(), index = (int)(qc::block_y() * qc::blocks_x() + qc::block_x());
    const int band = index / (high * wide), left = (int)qc::blocks_x() - band * high, rows = left < high ? left : high;
    const int inside = index - band * high * wide;
    return {band * high + inside % rows, inside / rows};
}

/* Which slices a block sums up, where several share a tile. */
struct qc_share {
    int first, count;
};
QC_DEVICE qc_share qc_share_of_block(int slices) {
    const int each = (slices + (int)qc::blocks_z() - 1) / (int)qc::blocks_z(), first = (int)qc::block_z() * each;
    const int left = slices - first;
    return {first, left < 0 ? 0 : left < each ? left : each};
}

template <class Tile, class Product> struct qc_loop {
    typedef typename Product::Total Total;
    static constexpr int kWeightSlice = Tile::Slice * Product::kWeightBytes / 16;
    static constexpr int kBytes = Tile::TileM * Tile::Slice + Tile::TileN * kWeightSlice; /* of a stage */
    static constexpr int kWords = Product::kWeightBytes == 16 ? 2 : 1; /* of weights, for 8 columns of a step */

    uint32_t a[2][Tile::CountM][4], b[2][Tile::CountN][kWords];

    static QC_MEMBER int warp_m() { return (int)qc::warp() / Tile::WarpsN; }
    static QC_MEMBER int warp_n() { return (int)qc::warp() % Tile::WarpsN; }

    QC_MEMBER void load(int set, const unsigned char *stage, int step) {
        const int lane = (int)qc::lane();
        const unsigned char *weights = stage + Tile::TileM * Tile::Slice;
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) {
            const int row = warp_m() * Tile::WarpM + i * 16 + lane % 16;
            qc::load_matrices(a[set][i], stage + qc_place<Tile::Slice>(row, step * 2 + lane / 16));
        }
        constexpr int at_once = 4 / kWords;
        QC_UNROLL
        for (int i = 0; i < Tile::CountN; i += at_once) {
            const int row = warp_n() * Tile::WarpN + i * 8 + (kWords == 2 ? lane / 16 * 8 + lane % 8 : lane);
            const int chunk = kWords == 2 ? step * 2 + lane / 8 % 2 : step * Product::kWeightBytes / 8;
            uint32_t four[4];
            qc::load_matrices(four, weights + qc_place<kWeightSlice>(row, chunk));
            QC_UNROLL
            for (int j = 0; j < 4; ++j) b[set][i + j / kWords][j % kWords] = four[j];
        }
    }

    QC_MEMBER void multiply(int set, int step, Total (&total)[Tile::CountM][Tile::CountN][4]) {
        QC_UNROLL
        for (int plane = 0; plane < Product::kPlanes; ++plane) {
            uint32_t left[Tile::CountM][4], right[Tile::CountN][2];
            QC_UNROLL
            for (int i = 0; i < Tile::CountM; ++i) Product::left(left[i], a[set][i], plane);
            QC_UNROLL
            for (int j = 0; j < Tile::CountN; ++j) Product::right(right[j], b[set][j], step, plane);
            QC_UNROLL
            for (int i = 0; i < Tile::CountM; ++i) {
                QC_UNROLL
                for (int j = 0; j < Tile::CountN; ++j) Product::multiply(total[i][j], left[i], right[j]);
            }
        }
    }

    /* Adds the products of `count` slices to `total`. Stage `stage` holds the first of them, or will when the copies
     * that are under way land; `fetch(to, i)` begins the copies of slice i of these, of what comes after them too;
     * `stepped(set)` is called behind every step, while that set holds its operands. Returns the stage behind the
     * last. */
    template <class Fetch, class Stepped>
    QC_MEMBER int run(Total (&total)[Tile::CountM][Tile::CountN][4], int stage, int count, Fetch fetch,
                      Stepped stepped) {
        unsigned char *shared = qc::shared();
        qc::wait<Tile::Stages - 2>();
        qc::sync();
        load(0, shared + stage * kBytes, 0);
        for (int slice = 0; slice < count; ++slice) {
            const unsigned char *now = shared + stage * kBytes;
            const int free = stage ? stage - 1 : Tile::Stages - 1, next = stage + 1 == Tile::Stages ? 0 : stage + 1;
            QC_UNROLL
            for (int step = 0; step < Tile::Steps; ++step) {
                if (step + 1 == Tile::Steps) {
                    qc::wait<Tile::Stages - 2>();
                    qc::sync();
                    load(0, shared + next * kBytes, 0);
                } else {
                    load((step + 1) % 2, now, step + 1);
                }
                if (step == 0) {
                    fetch(shared + free * kBytes, slice + Tile::Stages - 1);
                    qc::commit();
                }
                multiply(step % 2, step, total);
                stepped(step % 2);
            }
            stage = next;
        }
        return stage;
    }

    /* Begins the copies of all stages but one. */
    template <class Fetch> static QC_MEMBER void start(Fetch fetch) {
        QC_UNROLL
        for (int i = 0; i < Tile::Stages - 1; ++i) {
            fetch(qc::shared() + i * kBytes, i);
            qc::commit();
        }
    }

    static QC_MEMBER void clear(Total (&total)[Tile::CountM][Tile::CountN][4], Total first) {
        QC_UNROLL
        for (int i = 0; i < Tile::CountM; ++i) {
            QC_UNROLL
            for (int j = 0; j < Tile::CountN; ++j) {
                QC_UNROLL
                for (int k = 0; k < 4; ++k) total[i][j][k] = first;
            }
        }
    }
};
