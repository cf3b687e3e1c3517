/* Decoding weights whose codes are no integers: small floats, tables of 16 numbers, codebooks. Pairs as in
 * qc_wn_integers.cuh; there are no zero points.
 *   e4m3:  bytes as of integers of 8 bits; the exponent's bias stays: numbers come 2^-8 times too small, in bfloat16
 *          2^-120 times
 *   e2m1:  word i / 4; of pair j = i % 4 exponent and mantissa are bits 9 - 3 j to 11 - 3 j, the sign is bit 15, 12,
 *          14, 13; 2^-14 times too small, in bfloat16 2^-126 times
 *   table of 16: word i / 4, codes at bits 8 (i % 4) and 4 above; the two weights of a pair are neighbours here
 *   tables of 4 and 8: of code n of eight i (of 0 to 3) two bits are in word i / 2 at 4 n + 2 (i % 2), the third is in
 *          word 2 at 4 n + i
 *   codebook of D numbers: codes of B bits one behind the other; first half of the block, its vectors in order, and for
 *          each of them (of sums, for each summand of them) the lane's first column, then its second
 * Scales make up for the powers of two.
 */
#pragma once

#include "qc_wn_kinds.cuh"

/* NaN, 0x7f, counts as 480: weights have none. */
template <class Kind> struct qc_wn_e4m3 {
    static constexpr int words = 8, table_bytes = 0;
    static constexpr uint32_t zero = 0;
    static constexpr bool deferred = false;
    QC_MEMBER void prepare(const void *, unsigned char *) {}
    struct Offsets {};
    QC_MEMBER Offsets open(uint32_t) const { return Offsets(); }
    QC_MEMBER void decode(uint32_t (&a)[2][4], const uint32_t (&word)[8], int half, Offsets) const {
        constexpr int down = Kind::room == 10 ? 1 : 4; /* from bits 14 to 8 to the top of the mantissa */
        constexpr uint32_t mask = 0x7f00u >> down;
        QC_UNROLL
        for (int i = 0; i < 8; ++i) {
            const uint32_t from = i % 2 ? word[4 * half + i / 2] << 8 : word[4 * half + i / 2];
            a[i / 4][i % 4] = qc_wn_merge(from, 0x80008000u, from >> down & (mask << 16 | mask));
        }
    }
};

template <class Kind> struct qc_wn_e2m1 {
    static constexpr int words = 4, table_bytes = 0;
    static constexpr uint32_t zero = 0;
    static constexpr bool deferred = false;
    QC_MEMBER void prepare(const void *, unsigned char *) {}
    struct Offsets {};
    QC_MEMBER Offsets open(uint32_t) const { return Offsets(); }
    /* A shift to the left, or to the right where it is negative. */
    static QC_MEMBER uint32_t moved(uint32_t a, int left) { return left < 0 ? a >> -left : a << left; }
    QC_MEMBER void decode(uint32_t (&a)[2][4], const uint32_t (&word)[4], int half, Offsets) const {
        constexpr uint32_t mask = 7u << (Kind::room - 1);
        QC_UNROLL
        for (int i = 0; i < 8; ++i) {
            const int j = i % 4, sign = j == 0 ? 0 : j == 1 ? 3 : j - 1;
            const uint32_t from = word[2 * half + i / 4];
            const uint32_t size = moved(from, Kind::room - 10 + 3 * j) & (mask << 16 | mask);
            a[i / 4][j] = qc_wn_merge(from << sign, 0x80008000u, size);
        }
    }
};

/* Bytes are chosen from registers: 21 instructions for 8 weights. */
template <class Kind> struct qc_wn_table {
    static constexpr int words = 4, table_bytes = 0;
    static constexpr uint32_t zero = 0;
    static constexpr bool deferred = false;
    uint32_t low[4], high[4];
    QC_MEMBER void prepare(const void *table, unsigned char *) {
        QC_UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint32_t first = ((const uint32_t *)table)[2 * i], second = ((const uint32_t *)table)[2 * i + 1];
            low[i] = qc::choose_bytes(first, second, 0x6420), high[i] = qc::choose_bytes(first, second, 0x7531);
        }
    }
    struct Offsets {};
    QC_MEMBER Offsets open(uint32_t) const { return Offsets(); }
    /* One byte of each of four entries: from both halves of the table, then from the right one. */
    static QC_MEMBER uint32_t find(const uint32_t (&plane)[4], uint32_t within, uint32_t which) {
        const uint32_t first = qc::choose_bytes(plane[0], plane[1], within);
        return qc::choose_bytes(first, qc::choose_bytes(plane[2], plane[3], within), which);
    }
    QC_MEMBER void decode(uint32_t (&a)[2][4], const uint32_t (&word)[4], int half, Offsets) const {
        QC_UNROLL
        for (int i = 0; i < 2; ++i) {
            const uint32_t from = word[2 * half + i];
            const uint32_t all_within = from & 0x77777777u;
            const uint32_t all_which = qc_wn_merge(from >> 1, 0x44444444u, 0x32103210u);
            QC_UNROLL
            for (int j = 0; j < 2; ++j) {
                const uint32_t within = all_within >> 16 * j, which = all_which >> 16 * j;
                const uint32_t bottom = find(low, within, which), top = find(high, within, which);
                a[i][2 * j] = qc::choose_bytes(bottom, top, 0x5140);
                a[i][2 * j + 1] = qc::choose_bytes(bottom, top, 0x7362);
            }
        }
    }
};

/* Bytes are chosen by whole nibbles: 13 instructions for 8 weights. */
template <class Kind, int Bits> struct qc_wn_small_table {
    static constexpr int words = Bits, table_bytes = 0, parts = 1 << (Bits - 2);
    static constexpr uint32_t zero = 0;
    static constexpr bool deferred = false;
    uint32_t low[parts], high[parts];
    QC_MEMBER void prepare(const void *table, unsigned char *) {
        QC_UNROLL
        for (int i = 0; i < parts; ++i) {
            const uint32_t first = ((const uint32_t *)table)[2 * i], second = ((const uint32_t *)table)[2 * i + 1];
            low[i] = qc::choose_bytes(first, second, 0x6420), high[i] = qc::choose_bytes(first, second, 0x7531);
        }
    }
    struct Offsets {};
    QC_MEMBER Offsets open(uint32_t) const { return Offsets(); }
    QC_MEMBER void decode(uint32_t (&a)[2][4], const uint32_t (&word)[words], int half, Offsets) const {
        QC_UNROLL
        for (int i = 0; i < 2; ++i) {
            uint32_t all = word[half] >> 2 * i & 0x33333333u;
            if constexpr (Bits == 3) {
                const int down = 2 * half + i - 2;
                all = qc_wn_merge(down > 0 ? word[2] >> 1 : word[2] << -down, 0x44444444u, all);
            }
            QC_UNROLL
            for (int j = 0; j < 2; ++j) {
                const uint32_t bottom = qc::choose_bytes(low[0], low[parts - 1], all >> 16 * j);
                const uint32_t top = qc::choose_bytes(high[0], high[parts - 1], all >> 16 * j);
                a[i][2 * j] = qc::choose_bytes(bottom, top, 0x5140);
                a[i][2 * j + 1] = qc::choose_bytes(bottom, top, 0x7362);
            }
        }
    }
};

/* Entries are read from shared memory, or past the first cache where the table is too large for that (16 bits). Codes
 * are data: so that lanes do not meet in a bank, each of the 8 or 16 that are served at once has a copy of the table in
 * banks of its own. A vector is the sum of one entry of each of Summands tables, which lie one behind the other; sums
 * are rounded to the kind, in order, and there are fewer copies, 32 KiB in all. */
template <class Kind, int Bits, int Dimension, int Summands = 1> struct qc_wn_codebook {
    static constexpr int words = Summands * Bits / Dimension, bytes = 2 * Dimension;
    static constexpr int copies = Bits == 8 ? 128 / bytes / Summands : 1, one_table = (bytes << Bits) * copies;
    static constexpr int table_bytes = Bits == 8 ? Summands * one_table : 0;
    static constexpr uint32_t zero = 0;
    static constexpr bool deferred = false;
    const unsigned char *entries;
    static_assert(Bits == 8 || Bits == 16, "codes are bytes or pairs of bytes");
    static_assert(Dimension == 8 || (Bits == 8 && Dimension == 4), "vectors of 8, or 4 with codes of bytes");

    template <class T> static QC_MEMBER void copy(const unsigned char *table, unsigned char *shared) {
        for (int i = (int)qc::thread(); i < table_bytes / bytes; i += (int)qc::threads())
            qc::store_shared(shared + i * bytes, qc::load_global<T>(table + i / copies * bytes));
    }
    QC_MEMBER void prepare(const void *table, unsigned char *shared) {
        entries = (const unsigned char *)table;
        if constexpr (Bits == 8) {
            if constexpr (Dimension == 8) copy<uint4>(entries, shared);
            else copy<uint2>(entries, shared);
            qc::sync();
            entries = shared + (int)qc::lane() % copies * bytes;
        }
    }
    struct Offsets {};
    QC_MEMBER Offsets open(uint32_t) const { return Offsets(); }
    /* The entry of one table that code i says. */
    template <class T> QC_MEMBER T entry(const uint32_t (&word)[words], int i, int summand) const {
        const uint32_t code = word[i * Bits / 32] >> (i * Bits % 32) & ((1u << Bits) - 1);
        const unsigned char *at = entries + (summand * one_table + (int)code * (bytes * copies));
        return Bits == 8 ? qc::load_shared<T>(at) : qc::load_global<T>(at);
    }
    static QC_MEMBER void add(uint4 &sum, const uint4 &more) {
        sum.x = Kind::add(sum.x, more.x), sum.y = Kind::add(sum.y, more.y);
        sum.z = Kind::add(sum.z, more.z), sum.w = Kind::add(sum.w, more.w);
    }
    static QC_MEMBER void add(uint2 &sum, const uint2 &more) {
        sum.x = Kind::add(sum.x, more.x), sum.y = Kind::add(sum.y, more.y);
    }
    template <class T> QC_MEMBER T vector(const uint32_t (&word)[words], int i, int upper) const {
        T sum = entry<T>(word, 2 * Summands * i + upper, 0);
        QC_UNROLL
        for (int summand = 1; summand < Summands; ++summand) {
            add(sum, entry<T>(word, 2 * (Summands * i + summand) + upper, summand));
        }
        return sum;
    }
    QC_MEMBER void decode(uint32_t (&a)[2][4], const uint32_t (&word)[words], int half, Offsets) const {
        QC_UNROLL
        for (int upper = 0; upper < 2; ++upper) {
            if constexpr (Dimension == 8) {
                const uint4 found = vector<uint4>(word, half, upper);
                a[0][upper] = found.x, a[0][2 + upper] = found.y, a[1][upper] = found.z, a[1][2 + upper] = found.w;
            } else {
                QC_UNROLL
                for (int i = 0; i < 2; ++i) {
                    const uint2 found = vector<uint2>(word, 2 * half + i, upper);
                    a[i][upper] = found.x, a[i][2 + upper] = found.y;
                }
            }
        }
    }
};
