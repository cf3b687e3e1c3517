/* Decoding weights: unsigned integers of 2, 3, 4 and 8 bits less a zero point, exact in half precision.
 *
 * A lane holds 32 weights of a block of 16 columns and 64 inputs, as pairs i = 4 t + reg of the four products t;
 * `reg` is a register of operand A, so that its lowest bit says which of the lane's two columns the pair belongs to.
 * The two weights of a pair lie 16 bits apart, in fields that are masked out and put into a mantissa (see
 * qc_wn_kinds.cuh):
 *   8 bits: words i / 2; the bytes of an even i are 1 and 3, those of an odd one 0 and 2
 *   4 bits: word i / 4, field at bit 4 (i % 4)
 *   3 bits: word i / 5, field at bit 3 (i % 5); pair 15 is made of bits 15 of the three words, lowest first
 *   2 bits: word i / 8, field at bit 2 (i % 8)
 * Instructions for 8 weights, scale left out: 4 bits 4 LOP3, 1 SHF, 2 HADD2, 2 HFMA2; 2 bits 4 LOP3, half a SHF and
 * four of the latter two.
 *
 * `raw` leaves the code alone: as the last bits of a half it is a subnormal number, code * 2^-24, 2^place times that
 * where the field lies higher, always by the same `place` in one column. Products take that, and its zero point is
 * taken from their sum: 5 instructions for 8 weights of 4 bits. bfloat16 has no room for that below float32's
 * smallest numbers.
 */
#pragma once

#include "qc_wn_kinds.cuh"

template <class Kind, int Bits> struct qc_wn_int {
    static constexpr int words = Bits, table_bytes = 0;
    static constexpr bool deferred = Kind::room == 10;
    static QC_MEMBER constexpr int place(int upper) { return upper ? Bits : 0; }
    static constexpr int room_for = (Kind::room - Bits) / Bits + 1;
    /* Fields that are read in place before the word is shifted: more would need more constants in registers. */
    static constexpr int fits = room_for < 4 ? room_for : 4, per_word = Bits == 3 ? 5 : 16 / Bits;
    /* What takes the power and the zero point away, by column of the lane and by place of the field. */
    struct Offsets {
        uint32_t of[2][fits];
    };

    QC_MEMBER void prepare(const void *, unsigned char *) {}
    /* `zeros` is a pair of zero points, integers, one of each column of the lane. */
    QC_MEMBER Offsets open(uint32_t zeros) const {
        Offsets out;
        QC_UNROLL
        for (int upper = 0; upper < 2; ++upper) {
            QC_UNROLL
            for (int i = 0; i < fits; ++i)
                out.of[upper][i] =
                    qc_wn_minus_power<Kind>(Kind::room - Bits * i) | qc_wn_spread(zeros, upper) << Bits * i;
        }
        return out;
    }
    static constexpr uint32_t zero = qc_wn_twice(1u << (Bits - 1));

    QC_MEMBER uint32_t pair(const uint32_t (&word)[words], int i, const Offsets &offsets) const {
        constexpr uint32_t mask = (1u << Bits) - 1, magic = qc_wn_power<Kind>(Kind::room);
        if (Bits == 3 && i == 15) {
            const uint32_t high = qc_wn_merge(word[words - 1] >> 13, 0x00040004u, magic);
            const uint32_t middle = qc_wn_merge(word[1] >> 14, 0x00020002u, high);
            return Kind::add(qc_wn_merge(word[0] >> 15, 0x00010001u, middle), offsets.of[1][0]);
        }
        const int field = i % per_word, place = field % fits, shift = Bits * place;
        const uint32_t from = word[i / per_word] >> (Bits * (field - place));
        const uint32_t number = qc_wn_merge(from, mask << shift | mask << (shift + 16), magic);
        if (!place) return Kind::add(number, offsets.of[i % 2][0]);
        return Kind::fma(number, qc_wn_power<Kind>(-shift), offsets.of[i % 2][place]);
    }
    QC_MEMBER void decode(uint32_t (&a)[2][4], const uint32_t (&word)[words], int half, const Offsets &offsets) const {
        QC_UNROLL
        for (int i = 0; i < 8; ++i) a[i / 4][i % 4] = pair(word, 8 * half + i, offsets);
    }

    /* A field in the last bits, or `place` bits higher in the second column. */
    static QC_MEMBER uint32_t moved(uint32_t a, int right) { return right < 0 ? a << -right : a >> right; }
    QC_MEMBER void raw(uint32_t (&a)[2][4], const uint32_t (&word)[words], int half) const {
        constexpr uint32_t mask = qc_wn_twice((1u << Bits) - 1);
        QC_UNROLL
        for (int k = 0; k < 8; ++k) {
            const int i = 8 * half + k, up = Bits * (k % 2);
            uint32_t &out = a[k / 4][k % 4];
            if (Bits == 3 && i == 15) {
                const uint32_t high = word[words - 1] >> 10 & 0x00200020u;
                out = qc_wn_merge(word[0] >> 12, 0x00080008u, qc_wn_merge(word[1] >> 11, 0x00100010u, high));
            } else {
                out = moved(word[i / per_word], Bits * (i % per_word) - up) & mask << up;
            }
        }
    }
};

/* Half precision holds 1024 + byte; bfloat16 only 128 + its lower seven bits, so that the highest one is added apart.
 * */
template <> struct qc_wn_int<qc_wn_half, 8> {
    static constexpr int words = 8, table_bytes = 0;
    static constexpr bool deferred = true;
    static QC_MEMBER constexpr int place(int) { return 0; }
    static constexpr uint32_t zero = 0x00800080u;
    struct Offsets {
        uint32_t of[2];
    };

    QC_MEMBER void prepare(const void *, unsigned char *) {}
    QC_MEMBER Offsets open(uint32_t zeros) const {
        Offsets out;
        QC_UNROLL
        for (int upper = 0; upper < 2; ++upper)
            out.of[upper] = 0xe400e400u | qc_wn_spread(zeros, upper);
        return out;
    }
    QC_MEMBER void decode(uint32_t (&a)[2][4], const uint32_t (&word)[8], int half, const Offsets &offsets) const {
        QC_UNROLL
        for (int i = 0; i < 8; ++i) {
            const uint32_t number = qc::choose_bytes(word[4 * half + i / 2], 0x64646464u, i % 2 ? 0x4240 : 0x4341);
            a[i / 4][i % 4] = qc::half2_add(number, offsets.of[i % 2]);
        }
    }
    QC_MEMBER void raw(uint32_t (&a)[2][4], const uint32_t (&word)[8], int half) const {
        QC_UNROLL
        for (int i = 0; i < 8; ++i)
            a[i / 4][i % 4] = qc::choose_bytes(word[4 * half + i / 2], 0, i % 2 ? 0x4240 : 0x4341);
    }
};

template <> struct qc_wn_int<qc_wn_bfloat, 8> {
    static constexpr int words = 8, table_bytes = 0;
    static constexpr bool deferred = false;
    static constexpr uint32_t zero = 0x00800080u;
    struct Offsets {
        uint32_t of[2];
    };

    QC_MEMBER void prepare(const void *, unsigned char *) {}
    QC_MEMBER Offsets open(uint32_t zeros) const {
        Offsets out;
        QC_UNROLL
        for (int upper = 0; upper < 2; ++upper)
            out.of[upper] = qc_wn_twice(qc::to_bfloat(qc::to_float((int)(zeros >> 16 * upper & 0xffff))));
        return out;
    }
    QC_MEMBER void decode(uint32_t (&a)[2][4], const uint32_t (&word)[8], int half, const Offsets &offsets) const {
        constexpr uint32_t minus = qc_wn_minus_power<qc_wn_bfloat>(7);
        QC_UNROLL
        for (int i = 0; i < 8; ++i) {
            const uint32_t both = qc::choose_bytes(word[4 * half + i / 2], 0x43434343u, i % 2 ? 0x4240 : 0x4341);
            /* 128 + the lower bits, and 128 or 256; every sum stays within eight bits. */
            const uint32_t low = qc_wn_bfloat::add(both & 0xff7fff7fu, minus);
            const uint32_t high = qc_wn_bfloat::add(both & 0xff80ff80u, minus);
            const uint32_t number = qc_wn_bfloat::add(low, high);
            a[i / 4][i % 4] = qc_wn_bfloat::subtract(number, offsets.of[i % 2]);
        }
    }
};
