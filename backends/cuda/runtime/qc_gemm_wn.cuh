/* Product of half-precision activations with packed weights of few bits, for one row to many.
 *
 *   weight[n, k] = (code - zero[n, k / group]) * scale[n, k / group], or table[code] * scale, or small floats * scale
 *   total[m, n]  = tensor_scale * sum over k of input[m, k] * weight[n, k] + sum over r of low[m, r] * up[n, r]
 *
 * Instances with `Post` sum 64 inputs at a time without scales, in half precision zero points apart (sum of code *
 * input, less zero point * sum of inputs), and add each such sum to the total with its group's scale by one fma: no
 * weight is rounded, groups are 64 or longer. Others round `(code - zero) * scale`, or entry times scale, once to the
 * kind. Sums are float32 over exact products; their order is that of the matrix units within a product of 16,
 * otherwise fixed. The low-rank branch is summed first, divided by what the total is multiplied by. What qc_wn.cuh
 * says follows.
 *
 * The weights are operand A of the products, so that eight rows of activations, not sixteen, fill operand B. A block of
 * weights is 16 columns by 64 inputs; lane l of a warp holds columns l / 4 and l / 4 + 8 and inputs 16 (l % 4) to
 * 16 (l % 4) + 15, four for each of four products, so that both its weights and its activations are contiguous and
 * that it needs one scale per column, also for groups of 16. Blocks lie in memory as [columns / 16][inputs / 64]; in
 * a block the words of every lane, as `weight_only_packing.py` orders them: [4 words or less at a time][lane].
 *
 * Each lane copies its own weights and scales to shared memory, Stages slices ahead, and reads back what it copied:
 * no barrier, no bank conflict. Activations are copied once for the WarpsN warps that share them; chunk c of 16 bytes
 * of row r lies at place c ^ r % 2. WarpsK warps, and args.splits blocks, share the inputs of a tile; sums are added
 * in order.
 */
#pragma once

#include "qc_wn.cuh"
#include "qc_wn_integers.cuh"
#include "qc_wn_tables.cuh"

/* The words of each lane: 16 bytes at a time, then 8, then 4. `from` is where the first bytes of this lane are. */
template <int Words> QC_DEVICE void qc_wn_copy(unsigned char *to, const unsigned char *from, int lane) {
    QC_UNROLL
    for (int i = 0; i < Words / 4; ++i) qc::copy_async<16>(to + i * 512 + lane * 16, from + i * 512);
    constexpr int pair = Words / 4 * 512, one = Words / 2 * 256;
    static_assert(Words % 4 == 0 || Words < 4, "the first bytes say where the others are");
    if (Words % 4 >= 2) qc::copy_async<8>(to + pair + lane * 8, from + pair);
    if (Words % 2) qc::copy_async<4>(to + one + lane * 4, from + one - (Words > 1 ? lane * 4 : 0));
}
template <int Words> QC_DEVICE int qc_wn_first_bytes(int lane) { return lane * (Words >= 4 ? 16 : Words >= 2 ? 8 : 4); }
template <int Words> QC_DEVICE void qc_wn_read(uint32_t (&out)[Words], const unsigned char *from, int lane) {
    QC_UNROLL
    for (int i = 0; i < Words / 4; ++i) {
        const uint4 four = qc::load_shared<uint4>(from + i * 512 + lane * 16);
        out[4 * i] = four.x, out[4 * i + 1] = four.y, out[4 * i + 2] = four.z, out[4 * i + 3] = four.w;
    }
    constexpr int pair = Words / 4 * 4, one = Words / 2 * 2;
    if constexpr (Words % 4 >= 2) {
        const uint2 two = qc::load_shared<uint2>(from + pair * 128 + lane * 8);
        out[pair] = two.x, out[pair + 1] = two.y;
    }
    if constexpr (Words % 2 == 1) out[one] = qc::load_shared<uint32_t>(from + one * 128 + lane * 4);
}

/* A tile's sizes, and where its parts lie in shared memory: a table, then Stages times what each share of the inputs
 * has: its activations, then for each warp and sixteen columns weights, scales, zero points. */
template <class Code, int Rows, int TilesN, int WarpsN, int WarpsK, int Stages> struct qc_wn_tile {
    static constexpr int rows = Rows, tiles_m = (Rows + 7) / 8, tiles_n = TilesN, columns = 16 * TilesN * WarpsN;
    static constexpr int warps_n = WarpsN, warps_k = WarpsK, stages = Stages;
    static constexpr int threads = 32 * WarpsN * WarpsK, sharers = 32 * WarpsN;
    static constexpr bool zeros = Code::zero != 0;
    static constexpr int block = Code::words * 128, parts = block + (zeros ? 256 : 128);
    static constexpr int share = Rows * 128 + WarpsN * TilesN * parts, stage = WarpsK * share;
    /* The first row and column of this block, and the lane's place among those that share activations. */
    static QC_MEMBER int first_row() { return (int)qc::block_y() * 8 * tiles_m; }
    static QC_MEMBER int first_column() { return (int)qc::block_x() * columns; }
    static QC_MEMBER int warp_n() { return (int)qc::warp() % WarpsN; }
    static QC_MEMBER int warp_k() { return (int)qc::warp() / WarpsN; }
};

/* A lane's way through its slices. Rows and columns that do not exist are copies of others: they cost no tests, and
 * nobody stores what becomes of them. */
template <class Code, class Tile> struct qc_wn_source {
    static constexpr int chunks = (Tile::rows * 8 + Tile::sharers - 1) / Tile::sharers;
    const uint16_t *input;
    const unsigned char *weight[Tile::tiles_n];
    int pair[Tile::tiles_n], at;

    QC_MEMBER qc_wn_source(const qc_wn_args &args, int slice, int slices) {
        const int lane = (int)qc::lane(), sharer = Tile::warp_n() * 32 + lane, tiles = (args.columns + 15) / 16;
        at = slice * 64;
        input = (const uint16_t *)args.input + (int64_t)Tile::first_row() * args.depth + sharer % 8 * 8;
        QC_UNROLL
        for (int i = 0; i < Tile::tiles_n; ++i) {
            const int wanted = Tile::first_column() / 16 + Tile::warp_n() * Tile::tiles_n + i;
            const int tile = wanted < tiles ? wanted : tiles - 1;
            weight[i] = (const unsigned char *)args.weight + ((int64_t)tile * slices + slice) * Tile::block +
                        qc_wn_first_bytes<Code::words>(lane);
            pair[i] = tile * args.groups * 8 + lane / 4;
        }
    }

    /* Starts copies of the next slice. */
    QC_MEMBER void fetch(const qc_wn_args &args, unsigned char *share) {
        const int lane = (int)qc::lane(), sharer = Tile::warp_n() * 32 + lane;
        const int valid = at + sharer % 8 * 8 < args.depth ? 16 : 0, rows = args.rows - 1 - Tile::first_row();
        QC_UNROLL
        for (int i = 0; i < chunks; ++i) {
            const int chunk = (sharer + i * Tile::sharers) % (Tile::rows * 8), place = chunk % 8 ^ (chunk / 8 % 2);
            const int row = (chunk / 8 < rows ? chunk / 8 : rows) * args.depth;
            qc::copy_async<16>(share + chunk / 8 * 128 + place * 16, input + row + (valid ? at : 0), valid);
        }
        const int group = (at + lane % 4 * 16) >> args.group_shift;
        QC_UNROLL
        for (int i = 0; i < Tile::tiles_n; ++i) {
            unsigned char *to = share + Tile::rows * 128 + (Tile::warp_n() * Tile::tiles_n + i) * Tile::parts;
            qc_wn_copy<Code::words>(to, weight[i], lane);
            weight[i] += Tile::warps_k * Tile::block;
            const int scales = pair[i] + group * 8;
            qc::copy_async<4>(to + Tile::block + lane * 4, (const uint32_t *)args.scale + scales);
            if (Tile::zeros && args.zero)
                qc::copy_async<4>(to + Tile::block + 128 + lane * 4, (const uint32_t *)args.zero + scales);
        }
        at += Tile::warps_k * 64;
    }
};

/* Scales, and zero points, of the lane's columns in one slice. */
template <class Code, class Tile> struct qc_wn_groups {
    uint32_t scale[Tile::tiles_n], zero[Tile::tiles_n];
    QC_MEMBER qc_wn_groups(const unsigned char *weights, bool zeros) {
        QC_UNROLL
        for (int i = 0; i < Tile::tiles_n; ++i) {
            const unsigned char *from = weights + i * Tile::parts + Tile::block + qc::lane() * 4;
            scale[i] = qc::load_shared<uint32_t>(from);
            zero[i] = Tile::zeros && zeros ? qc::load_shared<uint32_t>(from + 128) : Code::zero;
        }
    }
};

/* Sums of products of one slice: of weights, and with deferred zero points of the activations alone. Codes are then
 * 2^-24 times what they should be, 2^place times that in the second column; so are zero points, read as halves of
 * those bits, and the sums of activations. `qc_wn_unit` makes up for it in the end. */
template <class Code, class Tile, bool Deferred> struct qc_wn_sums {
    float part[Tile::tiles_n][Tile::tiles_m][4] = {}, input[Deferred ? Tile::tiles_m : 1][4] = {};

    /* total += what was summed, less the zero points, times the scales. */
    template <class Kind>
    QC_MEMBER void add_to(float (&total)[Tile::tiles_n][Tile::tiles_m][4],
                          const qc_wn_groups<Code, Tile> &groups) const {
        QC_UNROLL
        for (int i = 0; i < Tile::tiles_n * 2; ++i) {
            const int tile = i / 2, upper = i % 2;
            const float scale = Kind::real(groups.scale[tile] >> 16 * upper & 0xffff);
            const float zero = Deferred ? Kind::real(groups.zero[tile] >> 16 * upper & 0xffff) : 0.0f;
            QC_UNROLL
            for (int j = 0; j < Tile::tiles_m; ++j) {
                QC_UNROLL
                for (int k = 2 * upper; k < 2 * upper + 2; ++k) {
                    float sum = part[tile][j][k];
                    if constexpr (Deferred) sum = qc::fma(-zero, input[j][k], sum);
                    total[tile][j][k] = qc::fma(sum, scale, total[tile][j][k]);
                }
            }
        }
    }
};
template <class Code, bool Deferred> QC_DEVICE float qc_wn_unit(int upper) {
    if constexpr (Deferred) return (float)(1 << (24 - Code::place(upper)));
    (void)upper;
    return 1.0f;
}

/* total += the products of one slice. */
template <class Kind, class Code, class Tile, bool Post>
QC_DEVICE void qc_wn_slice(float (&total)[Tile::tiles_n][Tile::tiles_m][4], const Code &code,
                           const unsigned char *inputs, const unsigned char *weights, bool zeros) {
    constexpr bool deferred = Post && Code::deferred;
    const int lane = (int)qc::lane(), row = lane / 4 % Tile::rows;
    const unsigned char *input = inputs + row * 128 + lane % 4 * 32;
    const qc_wn_groups<Code, Tile> groups(weights, zeros);
    uint32_t words[Tile::tiles_n][Code::words];
    typename Code::Offsets offsets[Tile::tiles_n];
    QC_UNROLL
    for (int i = 0; i < Tile::tiles_n; ++i) {
        qc_wn_read<Code::words>(words[i], weights + i * Tile::parts, lane);
        offsets[i] = code.open(groups.zero[i]);
    }
    qc_wn_sums<Code, Tile, deferred> sums;
    /* Activations times what codes are multiplied by. */
    uint32_t ones[4] = {};
    if constexpr (deferred) {
        ones[0] = ones[2] = qc_wn_power<Kind>(Code::place(0));
        ones[1] = ones[3] = qc_wn_power<Kind>(Code::place(1));
    }
    QC_UNROLL
    for (int half = 0; half < 2; ++half) {
        uint32_t a[Tile::tiles_n][2][4];
        QC_UNROLL
        for (int i = 0; i < Tile::tiles_n; ++i) {
            if constexpr (deferred) code.raw(a[i], words[i], half);
            else code.decode(a[i], words[i], half, offsets[i]);
            if constexpr (!Post) {
                QC_UNROLL
                for (int k = 0; k < 8; ++k)
                    a[i][k / 4][k % 4] = Kind::multiply(a[i][k / 4][k % 4], qc_wn_spread(groups.scale[i], k % 2));
            }
        }
        QC_UNROLL
        for (int j = 0; j < Tile::tiles_m; ++j) {
            const uint4 four = qc::load_shared<uint4>(input + j * 1024 + (half ^ row % 2) * 16);
            const uint32_t b[2][2] = {{four.x, four.y}, {four.z, four.w}};
            QC_UNROLL
            for (int k = 0; k < 2; ++k) {
                QC_UNROLL
                for (int i = 0; i < Tile::tiles_n; ++i) Kind::mma((Post ? sums.part : total)[i][j], a[i][k], b[k]);
                if constexpr (deferred) Kind::mma(sums.input[j], ones, b[k]);
            }
        }
    }
    if constexpr (Post) sums.template add_to<Kind>(total, groups);
}

/* total = low up^T. */
template <class Kind, class Tile>
QC_DEVICE void qc_wn_low_rank_sums(float (&total)[Tile::tiles_n][Tile::tiles_m][4], const qc_wn_args &args) {
    const int lane = (int)qc::lane(), first_column = Tile::first_column() + Tile::warp_n() * Tile::tiles_n * 16;
    for (int at = Tile::warp_k() * 16; at < args.rank; at += 16 * Tile::warps_k) {
        const auto four = [&](const void *from, int row, int rows) {
            const uint16_t *place = (const uint16_t *)from + (int64_t)row * args.rank + at + lane % 4 * 4;
            return row < rows ? qc::load_global<uint2>(place) : make_uint2(0, 0);
        };
        uint32_t b[Tile::tiles_m][2];
        QC_UNROLL
        for (int j = 0; j < Tile::tiles_m; ++j) {
            const uint2 two = four(args.low, Tile::first_row() + 8 * j + lane / 4, args.rows);
            b[j][0] = two.x, b[j][1] = two.y;
        }
        QC_UNROLL
        for (int i = 0; i < Tile::tiles_n; ++i) {
            const uint2 first = four(args.up, first_column + 16 * i + lane / 4, args.columns);
            const uint2 second = four(args.up, first_column + 16 * i + 8 + lane / 4, args.columns);
            const uint32_t a[4] = {first.x, second.x, first.y, second.y};
            QC_UNROLL
            for (int j = 0; j < Tile::tiles_m; ++j) Kind::mma(total[i][j], a, b[j]);
        }
    }
}
/* The same, divided by what all of it is multiplied by in the end. */
template <class Kind, class Code, class Tile, bool Deferred>
QC_DEVICE void qc_wn_low_rank(float (&total)[Tile::tiles_n][Tile::tiles_m][4], const qc_wn_args &args) {
    qc_wn_low_rank_sums<Kind, Tile>(total, args);
    QC_UNROLL
    for (int i = 0; i < Tile::tiles_n * Tile::tiles_m * 4; ++i) {
        float &one = total[i / 4 / Tile::tiles_m][i / 4 % Tile::tiles_m][i % 4];
        one = qc::divide(one, qc::multiply(args.tensor_scale, qc_wn_unit<Code, Deferred>(i % 4 / 2)));
    }
}

/* The last block of a tile adds up what all have written, in their order. */
template <class Kind, class Tile> QC_DEVICE void qc_wn_combine(const qc_wn_args &args) {
    constexpr int rows = 8 * Tile::tiles_m;
    const int64_t width = (int64_t)qc::blocks_x() * Tile::columns;
    int *counter = args.counters + qc::block_y() * qc::blocks_x() + qc::block_x(), *come = (int *)qc::shared();
    qc::fence();
    qc::sync();
    if (qc::thread() == 0) *come = qc::atomic_add(counter, 1);
    qc::sync();
    if (*come != args.splits - 1) return;
    qc::fence();
    for (int at = (int)qc::thread(); at < rows * Tile::columns / 4; at += Tile::threads) {
        const int row = Tile::first_row() + at / (Tile::columns / 4);
        const int column = Tile::first_column() + at % (Tile::columns / 4) * 4;
        if (row >= args.rows || column >= args.columns) continue;
        float sum[4] = {};
        for (int i = 0; i < args.splits; ++i) {
            const float *from = (const float *)args.workspace + ((int64_t)i * args.rows + row) * width + column;
            const float4 more = qc::load_coherent<float4>(from);
            sum[0] = qc::add(sum[0], more.x), sum[1] = qc::add(sum[1], more.y);
            sum[2] = qc::add(sum[2], more.z), sum[3] = qc::add(sum[3], more.w);
        }
        qc_wn_finish<Kind>(args, row, column, sum);
    }
    if (qc::thread() == 0) *counter = 0;
}

/* Sums of the warps that share inputs, in order, a slab of rows at a time: results, or this block's part of them. A
 * row in shared memory is four floats longer than the tile: lanes of a product then lie in different banks. */
template <class Kind, class Code, class Tile, bool Deferred>
QC_DEVICE void qc_wn_gather(const qc_wn_args &args, const float (&total)[Tile::tiles_n][Tile::tiles_m][4]) {
    constexpr int slab = Tile::tiles_m < 4 ? Tile::tiles_m : 4, width = Tile::columns + 4, rows = 8 * slab;
    const int lane = (int)qc::lane();
    float *shared = (float *)qc::shared();
    const float scale[2] = {qc::multiply(args.tensor_scale, qc_wn_unit<Code, Deferred>(0)),
                            qc::multiply(args.tensor_scale, qc_wn_unit<Code, Deferred>(1))};
    QC_UNROLL
    for (int m = 0; m < Tile::tiles_m; m += slab) {
        qc::sync();
        QC_UNROLL
        for (int i = 0; i < Tile::tiles_n * slab * 4; ++i) {
            const int tile = i / 4 / slab, j = i / 4 % slab, k = i % 4;
            const int row = 8 * j + lane % 4 * 2 + k % 2;
            const int column = (Tile::warp_n() * Tile::tiles_n + tile) * 16 + lane / 4 + k / 2 * 8;
            qc::store_shared(shared + (Tile::warp_k() * rows + row) * width + column,
                             qc::multiply(total[tile][m + j][k], scale[k / 2]));
        }
        qc::sync();
        for (int at = (int)qc::thread(); at < rows * Tile::columns / 4; at += Tile::threads) {
            const int part = at / (Tile::columns / 4), row = Tile::first_row() + 8 * m + part;
            const int place = at % (Tile::columns / 4) * 4, column = Tile::first_column() + place;
            if (row >= args.rows || column >= args.columns) continue;
            float sum[4] = {};
            QC_UNROLL
            for (int i = 0; i < Tile::warps_k; ++i) {
                const float4 more = qc::load_shared<float4>(shared + (i * rows + part) * width + place);
                sum[0] = qc::add(sum[0], more.x), sum[1] = qc::add(sum[1], more.y);
                sum[2] = qc::add(sum[2], more.z), sum[3] = qc::add(sum[3], more.w);
            }
            if (args.splits == 1) {
                qc_wn_finish<Kind>(args, row, column, sum);
                continue;
            }
            const int64_t line = (int64_t)qc::block_z() * args.rows + row;
            float *to = (float *)args.workspace + line * qc::blocks_x() * Tile::columns + column;
            qc::store_global(to, make_float4(sum[0], sum[1], sum[2], sum[3]));
        }
    }
    if (args.splits > 1) qc_wn_combine<Kind, Tile>(args);
}

template <class Kind, class Code, bool Post, int Rows, int TilesN, int WarpsN, int WarpsK, int Stages>
QC_DEVICE void qc_gemm_wn(const qc_wn_args &args) {
    typedef qc_wn_tile<Code, Rows, TilesN, WarpsN, WarpsK, Stages> Tile;
    constexpr bool deferred = Post && Code::deferred;
    const int slices = (args.depth + 63) / 64, each = (slices + args.splits - 1) / args.splits;
    const int first = (int)qc::block_z() * each, last = first + each < slices ? first + each : slices;
    /* Of this warp, and of those that wait for each other at barriers. */
    const int mine = (last - first - Tile::warp_k() + WarpsK - 1) / WarpsK;
    const int steps = WarpsN > 1 ? (last - first + WarpsK - 1) / WarpsK : mine;
    unsigned char *share = qc::shared() + Code::table_bytes + Tile::warp_k() * Tile::share;

    qc_wn_source<Code, Tile> source(args, first + Tile::warp_k(), slices);
    QC_UNROLL
    for (int i = 0; i < Stages - 1; ++i) {
        if (i < mine) source.fetch(args, share + i * Tile::stage);
        qc::commit();
    }
    Code code;
    code.prepare(args.table, qc::shared());
    float total[TilesN][Tile::tiles_m][4] = {};
    if (args.rank && qc::block_z() == 0) qc_wn_low_rank<Kind, Code, Tile, deferred>(total, args);

    int full = 0, empty = (Stages - 1) * Tile::stage;
    for (int step = 0; step < steps; ++step) {
        qc::wait<Stages - 2>();
        if constexpr (WarpsN > 1) qc::sync();
        else qc::sync_warp();
        if (step + Stages - 1 < mine) source.fetch(args, share + empty);
        qc::commit();
        const unsigned char *weights = share + full + Rows * 128 + Tile::warp_n() * TilesN * Tile::parts;
        if (WarpsN == 1 || step < mine)
            qc_wn_slice<Kind, Code, Tile, Post>(total, code, share + full, weights, args.zero != nullptr);
        empty = full;
        full = full == (Stages - 1) * Tile::stage ? 0 : full + Tile::stage;
    }
    qc_wn_gather<Kind, Code, Tile, deferred>(args, total);
}
