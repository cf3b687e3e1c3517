/* Products of few rows of codes, as `qc_product.cuh` says; weights stream through once, so nothing but their bytes
 * counts.
 *
 * A warp has Columns neighbouring columns and Rows rows. Lane l takes chunks l, l + 32, ... of 16 bytes of each of
 * these columns, the next one or two of each on their way while it multiplies; inputs come from the first cache,
 * which they do not leave. Groups have whole chunks, so those of weights of two bits at least 64 codes; a lane adds
 * its chunks up in order, each sum one fma, then pairs of lanes are added, half a warp apart first. Orders of
 * weights are those of the kernels for many rows.
 */
#pragma once

#include "qc_sums.cuh"

/* How 16 bytes of weights meet kInputs times 16 bytes of inputs; the sum over codes follows from what was added up.
 * Only nibbles have a low-rank branch beside them. */
struct qc_dot_i8 {
    static constexpr int kInputs = 1, kShift = 0, kCodes = 16;
    static constexpr bool kLowRank = false;
    static QC_MEMBER uint32_t weight(uint32_t word, int) { return word; }
    static QC_MEMBER uint32_t input(const uint32_t (&words)[4], int word, int) { return words[word]; }
};
template <int Bits> struct qc_dot_wna8 {
    static constexpr int kInputs = 8 / Bits, kShift = 8 - Bits, kCodes = 128 / Bits;
    static constexpr bool kLowRank = false;
    static QC_MEMBER uint32_t weight(uint32_t word, int field) {
        return word << (kShift - field * Bits) & (Bits == 4 ? 0xf0f0f0f0u : 0xc0c0c0c0u);
    }
    static QC_MEMBER uint32_t input(const uint32_t (&words)[4 * kInputs], int word, int field) {
        return words[field * 4 + word];
    }
};
struct qc_dot_w4a4 {
    static constexpr int kInputs = 1, kShift = 8, kCodes = 32;
    static constexpr bool kLowRank = true;
    static QC_MEMBER uint32_t weight(uint32_t word, int field) { return (field ? word : word << 4) & 0xf0f0f0f0u; }
    static QC_MEMBER uint32_t input(const uint32_t (&words)[4], int word, int field) {
        return weight(words[word], field);
    }
};
struct qc_dot_b1 {
    static constexpr int kInputs = 1, kShift = 0, kCodes = 128;
    static constexpr bool kLowRank = false;
};
template <class Dot>
QC_DEVICE int qc_dot(Dot, const uint32_t (&weights)[4], const uint32_t (&inputs)[4 * Dot::kInputs], int sum) {
    QC_UNROLL
    for (int word = 0; word < 4; ++word) {
        QC_UNROLL
        for (int field = 0; field < Dot::kCodes / 16; ++field) {
            sum = qc::dot4(Dot::weight(weights[word], field), Dot::input(inputs, word, field), sum);
        }
    }
    return sum;
}
/* Signs: how many differ. */
QC_DEVICE int qc_dot(qc_dot_b1, const uint32_t (&weights)[4], const uint32_t (&inputs)[4], int sum) {
    QC_UNROLL
    for (int word = 0; word < 4; ++word) sum += qc::count_ones(weights[word] ^ inputs[word]);
    return sum;
}
template <class Dot> QC_DEVICE int qc_dot_total(Dot, int sum, int) { return sum >> Dot::kShift; }
QC_DEVICE int qc_dot_total(qc_dot_b1, int differ, int depth) { return depth - 2 * differ; }

/* Adds up each of Count numbers over the warp; lane l gets the sum at l * Count / 32. Half of a lane's numbers go to
 * the lane `Apart` from it, which keeps the other half. */
template <int Half, int Apart, int Count, class T> QC_DEVICE void qc_sum_halves(T (&values)[Count]) {
    const bool upper = (qc::lane() & Apart) != 0;
    if constexpr (Half > 0) {
        QC_UNROLL
        for (int i = 0; i < Half; ++i) {
            const T kept = upper ? values[i + Half] : values[i], given = upper ? values[i] : values[i + Half];
            values[i] = kept + qc::shuffle_xor(given, Apart);
        }
    } else if constexpr (Apart > 0) {
        values[0] += qc::shuffle_xor(values[0], Apart);
    }
    if constexpr (Apart > 0) qc_sum_halves<Half / 2, Apart / 2>(values);
}
template <int Count, class T> QC_DEVICE T qc_sum_lanes(T (&values)[Count]) {
    qc_sum_halves<Count / 2, 16>(values);
    return values[0];
}

/* What a lane adds to the low-rank products of a warp: pairs l, l + 32, ... of the rank. */
template <int Rows, int Columns>
QC_DEVICE void qc_low_rank(const qc_product_args &args, int first_row, int first_column, float (&sum)[Rows * Columns]) {
    const int pairs = args.rank / 2;
    for (int pair = (int)qc::lane(); pair < pairs; pair += 32) {
        float low[Rows][2], up[Columns][2];
        QC_UNROLL
        for (int i = 0; i < Rows; ++i) {
            const int64_t row = first_row + i < args.rows ? first_row + i : args.rows - 1;
            const uint32_t two = qc::load_global<uint32_t>((const uint32_t *)args.low + (row * pairs + pair));
            low[i][0] = qc::from_half((uint16_t)two), low[i][1] = qc::from_half((uint16_t)(two >> 16));
        }
        QC_UNROLL
        for (int j = 0; j < Columns; ++j) {
            const int64_t column = first_column + j < args.columns ? first_column + j : args.columns - 1;
            const uint32_t two = qc::load_global<uint32_t>((const uint32_t *)args.up + (column * pairs + pair));
            up[j][0] = qc::from_half((uint16_t)two), up[j][1] = qc::from_half((uint16_t)(two >> 16));
        }
        QC_UNROLL
        for (int i = 0; i < Rows * Columns; ++i) {
            sum[i] = qc::fma(low[i / Columns][0], up[i % Columns][0], sum[i]);
            sum[i] = qc::fma(low[i / Columns][1], up[i % Columns][1], sum[i]);
        }
    }
}

template <class Total>
QC_DEVICE void qc_finish_one(const qc_product_args &args, int row, int column, Total sum, float low_rank) {
    const qc_columns<1> columns = qc_columns_at<1>(args, column);
    Total total[1] = {sum};
    float real[1];
    qc_reals(columns, qc_row_at(args, row), total, real);
    if (args.rank) real[0] = qc::add(real[0], low_rank);
    if (args.out_kind == QC_OUT_I32) ((Total *)args.out)[(int64_t)row * args.columns + column] = total[0];
    else qc_store_results(args, columns, row, real);
}

template <class Dot> QC_DEVICE bool qc_yields_signs(Dot, const qc_product_args &) { return false; }
QC_DEVICE bool qc_yields_signs(qc_dot_b1, const qc_product_args &args) { return args.out_kind == QC_OUT_SIGNS; }

/* Signs of a block: sixteen neighbouring columns of four warps, which meet in shared memory. The last block of a row
 * fills it up. */
template <int Rows, int Columns>
QC_DEVICE void qc_finish_signs(const qc_product_args &args, int row, int column, int sum, bool exists) {
    constexpr int apart = 32 / (Rows * Columns), warps = 16 / Columns;
    bool negative = false;
    if (exists) {
        const qc_columns<1> columns = qc_columns_at<1>(args, column);
        int total[1] = {sum};
        float real[1];
        qc_reals(columns, qc_row_at(args, row), total, real);
        if (args.bias) real[0] = qc::add(real[0], columns.bias[0]);
        negative = real[0] < qc_sign_limit(args.out_scale);
    }
    const unsigned votes = qc::ballot(negative);
    const int lane = (int)qc::lane(), thread = (int)qc::thread(), at = (int)qc::block_y() * Rows + thread;
    uint32_t *shared = (uint32_t *)qc::shared();
    if (lane < Rows) {
        uint32_t bits = 0;
        QC_UNROLL
        for (int j = 0; j < Columns; ++j) bits |= (votes >> (lane * Columns + j) * apart & 1) << j;
        qc::store_shared(shared + (lane * warps + qc::warp()), bits);
    }
    qc::sync();
    if (thread >= Rows || at >= args.rows) return;
    uint32_t all = 0;
    QC_UNROLL
    for (int i = 0; i < warps; ++i) all |= qc::load_shared<uint32_t>(shared + (thread * warps + i)) << Columns * i;
    const int halves = (args.columns + 127) / 128 * 8, place = (int)qc::block_x();
    uint16_t *to = (uint16_t *)args.out + (int64_t)at * halves;
    qc::store_global(to + place, (uint16_t)all);
    for (int i = place + 1; place + 1 == (int)qc::blocks_x() && i < halves; ++i) qc::store_global(to + i, (uint16_t)0);
}

template <class Dot, qc_scales Scales, int Rows, int Columns>
QC_DEVICE void qc_gemv_codes(const qc_product_args &args) {
    constexpr bool Groups = Scales != QC_OF_COLUMNS, moved = Scales == QC_OF_MOVED;
    constexpr int words = 4 * Dot::kInputs;
    const int lane = (int)qc::lane(), chunks = (args.depth + Dot::kCodes - 1) / Dot::kCodes;
    const int input_chunks = (args.depth * Dot::kInputs + Dot::kCodes - 1) / Dot::kCodes;
    const int first_row = (int)qc::block_y() * Rows;
    const int first_column = (int)(qc::block_x() * (qc::threads() / 32) + qc::warp()) * Columns;
    const int pitch = (args.columns + 1) / 2 * 2;

    constexpr int depth_ahead = Rows > 4 ? 1 : 2;
    uint4 ahead[depth_ahead][Columns] = {};
    const auto look_ahead = [&](int set, int chunk) {
        QC_UNROLL
        for (int j = 0; j < Columns; ++j) {
            const int column = first_column + j < args.columns ? first_column + j : args.columns - 1;
            if (chunk < chunks) {
                ahead[set][j] = qc::load_stream<uint4>((const uint4 *)args.weight + ((int64_t)column * chunks + chunk));
            }
        }
    };
    int total[Rows * Columns] = {};
    float real[Rows * Columns] = {}, low_rank[Rows * Columns] = {};
    QC_UNROLL
    for (int i = 0; i < depth_ahead; ++i) look_ahead(i, lane + i * 32);
    if (Dot::kLowRank) qc_low_rank<Rows, Columns>(args, first_row, first_column, low_rank);
    for (int first = lane; first < chunks; first += depth_ahead * 32) {
        QC_UNROLL
        for (int set = 0; set < depth_ahead; ++set) {
            const int chunk = first + set * 32;
            if (chunk >= chunks) break;
            uint32_t weights[Columns][4];
            QC_UNROLL
            for (int j = 0; j < Columns; ++j) {
                const uint4 four = ahead[set][j];
                weights[j][0] = four.x, weights[j][1] = four.y, weights[j][2] = four.z, weights[j][3] = four.w;
            }
            look_ahead(set, chunk + depth_ahead * 32);
            float scales[Columns];
            int zeros[Columns] = {}, sums[Columns] = {};
            const int64_t group = Groups ? chunk * Dot::kCodes / args.group : 0;
            if (Groups) {
                const uint16_t *from = (const uint16_t *)args.group_scale + (group * pitch + first_column);
                QC_UNROLL
                for (int j = 0; j < Columns; j += 2) {
                    const uint32_t pair = first_column + j < pitch ? qc::load_global<uint32_t>(from + j) : 0;
                    scales[j] = qc::from_half((uint16_t)pair), scales[j + 1] = qc::from_half((uint16_t)(pair >> 16));
                }
            }
            float start[Columns];
            QC_UNROLL
            for (int j = 0; j < Columns; ++j) {
                const int column = first_column + j < args.columns ? first_column + j : args.columns - 1;
                const int64_t place = group * pitch + column;
                start[j] = kQcBase;
                if (Scales == QC_OF_ZEROS && args.group_zero) {
                    zeros[j] = qc::load_global<int8_t>(args.group_zero + place);
                }
                /* The lane of a group's first chunk counts its weights. */
                if ((moved || Scales == QC_OF_ZEROS) && args.group_sum && chunk * Dot::kCodes % args.group == 0) {
                    sums[j] = qc::load_global<int16_t>(args.group_sum + place);
                    if (moved) start[j] = qc_start(*args.input_zero * sums[j], Dot::kShift);
                }
            }
            QC_UNROLL
            for (int i = 0; i < Rows; ++i) {
                const int row = first_row + i < args.rows ? first_row + i : args.rows - 1;
                uint32_t inputs[words];
                QC_UNROLL
                for (int k = 0; k < Dot::kInputs; ++k) {
                    const int at = chunk * Dot::kInputs + k;
                    uint4 four = {};
                    if (at < input_chunks) {
                        four = qc::load_global<uint4>((const uint4 *)args.input + ((int64_t)row * input_chunks + at));
                    }
                    inputs[4 * k] = four.x, inputs[4 * k + 1] = four.y;
                    inputs[4 * k + 2] = four.z, inputs[4 * k + 3] = four.w;
                }
                int row_sum = 0, row_zero = 0;
                if constexpr (Scales == QC_OF_ZEROS) {
                    row_zero = qc_input_zero(args, row);
                    QC_UNROLL
                    for (int k = 0; k < words; ++k) row_sum = qc::dot4(inputs[k], 0x01010101u, row_sum);
                }
                float row_scale = 0;
                if (Scales == QC_OF_BLOCKS) {
                    const int64_t groups = (args.depth + args.group - 1) / args.group;
                    row_scale = qc::load_global<float>(args.input_group_scale + (row * groups + group));
                }
                QC_UNROLL
                for (int j = 0; j < Columns; ++j) {
                    const int base = (int)qc::bits(kQcBase);
                    const int before = Scales == QC_OF_ZEROS ? 0 : Groups ? base : total[i * Columns + j];
                    int sum = qc_dot(Dot(), weights[j], inputs, before);
                    if (Scales == QC_OF_ZEROS) {
                        sum = base + (sum >> Dot::kShift) - row_sum * zeros[j] - row_zero * sums[j];
                    }
                    if (Groups) {
                        const float exact = qc::add(qc::from_bits((uint32_t)sum), -start[j]);
                        const float step = Scales == QC_OF_BLOCKS ? qc::multiply(row_scale, scales[j]) : scales[j];
                        real[i * Columns + j] = qc::fma(exact, step, real[i * Columns + j]);
                    } else {
                        total[i * Columns + j] = sum;
                    }
                }
            }
        }
    }

    const int mine = lane * (Rows * Columns) / 32;
    const int row = first_row + mine / Columns, column = first_column + mine % Columns;
    const bool writes = lane % (32 / (Rows * Columns)) == 0 && row < args.rows && column < args.columns;
    const float beside = Dot::kLowRank ? qc_sum_lanes(low_rank) : 0;
    if constexpr (Groups) {
        const float step = Scales == QC_OF_ZEROS ? 1.0f : 1.0f / (1 << Dot::kShift);
        const float sum = qc::multiply(qc_sum_lanes(real), step);
        if (writes) qc_finish_one(args, row, column, sum, beside);
    } else {
        const int sum = qc_dot_total(Dot(), qc_sum_lanes(total), args.depth);
        if (qc_yields_signs(Dot(), args)) qc_finish_signs<Rows, Columns>(args, row, column, sum, writes);
        else if (writes) qc_finish_one(args, row, column, sum, beside);
    }
}
