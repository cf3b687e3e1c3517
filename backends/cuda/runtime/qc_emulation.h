/* The other half of `qc_device.h`: what each of its operations means, on a processor. How lanes run and meet stands in
 * `qc_grid.h`.
 */
#pragma once

#include <math.h>

#include "qc_grid.h"
#include "qc_numbers.h"

#define QC_DEVICE static inline
#define QC_MEMBER inline
#define QC_UNROLL
#define QC_KERNEL(name, type, threads, blocks, ...)                                                                    \
    extern "C" const char *name(const void *args, const unsigned *grid, size_t shared, unsigned order,                 \
                                qc_traffic *traffic) {                                                                 \
        const auto body = [](const void *given) { __VA_ARGS__(*(const type *)given); };                                \
        return qc::emulation::run(body, args, grid, threads, shared, order, traffic);                                  \
    }
#define QC_WHERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace qc {

inline unsigned thread() { return emulation::grid.current->thread; }
inline unsigned threads() { return (unsigned)emulation::grid.fibers.size(); }
inline unsigned lane() { return thread() % 32; }
inline unsigned warp() { return thread() / 32; }
inline unsigned block_x() { return emulation::grid.block[0]; }
inline unsigned block_y() { return emulation::grid.block[1]; }
inline unsigned block_z() { return emulation::grid.block[2]; }
inline unsigned blocks_x() { return emulation::grid.size[0]; }
inline unsigned blocks_y() { return emulation::grid.size[1]; }
inline unsigned blocks_z() { return emulation::grid.size[2]; }
inline unsigned char *shared() { return emulation::grid.shared; }
inline uint32_t shared_address(const void *at) { return (uint32_t)((const unsigned char *)at - emulation::grid.shared); }

inline void sync() {
    auto &grid = emulation::grid;
    const unsigned generation = grid.generation;
    if (++grid.arrived == grid.fibers.size()) {
        grid.arrived = 0;
        ++grid.generation;
        grid.idle = 0;
        if (grid.traffic) ++grid.traffic->barriers;
    } else {
        while (grid.generation == generation) emulation::pause();
    }
}
inline void sync_warp() {
    emulation::together<int>("sync_warp", 0, [](const int *, int *out) { std::fill(out, out + 32, 0); });
}
inline void fence() {}
template <class T> T shuffle(T value, unsigned from) {
    struct In {
        T value;
        unsigned from;
    };
    return emulation::together<T>("shuffle", In{value, from}, [](const In *in, T *out) {
        for (int i = 0; i < 32; ++i) out[i] = in[in[i].from % 32].value;
    });
}
template <class T> T shuffle_xor(T value, unsigned mask) { return shuffle(value, lane() ^ mask); }
inline unsigned ballot(bool value) {
    return emulation::together<unsigned>("ballot", value, [](const bool *in, unsigned *out) {
        unsigned all = 0;
        for (int i = 0; i < 32; ++i) all |= (unsigned)in[i] << i;
        std::fill(out, out + 32, all);
    });
}
inline float atomic_add(float *to, float value) {
    const float before = *to;
    *to = before + value;
    return before;
}
inline int atomic_add(int *to, int value) {
    const int before = *to;
    *to = before + value;
    return before;
}

inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
inline float multiply(float a, float b) { return a * b; }
inline float add(float a, float b) { return a + b; }
inline float divide(float a, float b) { return a / b; }
inline float square_root(float a) { return sqrtf(a); }
inline float to_float(int a) { return (float)a; }
/* Beyond int32 the device saturates, and NaN becomes 0. */
inline int round_even(float a) {
    if (a != a) return 0;
    if (a >= 2147483648.0f) return INT32_MAX;
    if (a < -2147483648.0f) return INT32_MIN;
    return (int)nearbyintf(a);
}
inline float minimum(float a, float b) { return fminf(a, b); }
inline float maximum(float a, float b) { return fmaxf(a, b); }
inline float magnitude(float a) { return fabsf(a); }
inline uint32_t bits(float a) {
    uint32_t out;
    memcpy(&out, &a, 4);
    return out;
}
inline float from_bits(uint32_t a) {
    float out;
    memcpy(&out, &a, 4);
    return out;
}
inline int count_ones(uint32_t a) { return __builtin_popcount(a); }
inline int dot4(uint32_t a, uint32_t b, int c) {
    for (int i = 0; i < 4; ++i) c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return c;
}
inline uint32_t most_bytes(uint32_t a, uint32_t b) {
    uint32_t out = 0;
    for (int i = 0; i < 32; i += 8)
        out |= ((int8_t)(a >> i) > (int8_t)(b >> i) ? a >> i & 0xff : b >> i & 0xff) << i;
    return out;
}
template <int Table> uint32_t logic(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t out = 0;
    for (int row = 0; row < 8; ++row)
        if (Table >> row & 1) out |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
    return out;
}
inline uint32_t choose_bytes(uint32_t a, uint32_t b, uint32_t order) {
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned chosen = order >> 4 * i & 0xf;
        uint32_t byte = (uint32_t)(both >> 8 * (chosen & 7)) & 0xff;
        if (chosen & 8) byte = byte & 0x80 ? 0xff : 0;
        out |= byte << 8 * i;
    }
    return out;
}

template <class Compute> uint32_t by_halves(uint32_t a, uint32_t b, uint32_t c, Compute compute) {
    const uint16_t low = numbers::half.round(compute(numbers::half.value(a & 0xffff), numbers::half.value(b & 0xffff),
                                                     numbers::half.value(c & 0xffff)));
    const uint16_t high = numbers::half.round(
        compute(numbers::half.value(a >> 16), numbers::half.value(b >> 16), numbers::half.value(c >> 16)));
    return (uint32_t)high << 16 | low;
}
inline uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
    return by_halves(a, b, c, [](double x, double y, double z) { return numbers::add_to_odd(x * y, z); });
}
inline uint32_t half2_add(uint32_t a, uint32_t b) {
    return by_halves(a, b, 0, [](double x, double y, double) { return x + y; });
}
inline uint32_t half2_subtract(uint32_t a, uint32_t b) {
    return by_halves(a, b, 0, [](double x, double y, double) { return x - y; });
}
inline uint32_t half2_multiply(uint32_t a, uint32_t b) {
    return by_halves(a, b, 0, [](double x, double y, double) { return x * y; });
}
inline uint32_t bfloat2_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t out = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        const auto real = [&](uint32_t of) { return numbers::bfloat.value(of >> shift & 0xffff); };
        out |= numbers::bfloat.round(numbers::add_to_odd(real(a) * real(b), real(c))) << shift;
    }
    return out;
}
inline uint16_t to_half(float a) { return (uint16_t)numbers::half.round(a); }
inline float from_half(uint16_t a) { return (float)numbers::half.value(a); }
inline float from_bfloat(uint16_t a) { return from_bits((uint32_t)a << 16); }
inline uint16_t to_bfloat(float a) { return (uint16_t)numbers::bfloat.round(a); }
inline uint32_t to_e4m3(float first, float second) {
    const auto code = [](float a) { return a != a ? 0x7f : numbers::e4m3.round(fmin(fmax(a, -448.0), 448.0)); };
    return code(first) | code(second) << 8;
}

template <class T> T load_shared(const void *at, QC_WHERE) {
    emulation::note(at, sizeof(T), true, file, line);
    T out;
    memcpy(&out, at, sizeof out);
    return out;
}
template <class T> void store_shared(void *at, const T &value, QC_WHERE) {
    emulation::note(at, sizeof(T), true, file, line);
    emulation::wrote(at, sizeof(T));
    memcpy(at, &value, sizeof value);
}
template <class T> T load_global(const void *at, QC_WHERE) {
    emulation::note(at, sizeof(T), false, file, line);
    T out;
    memcpy(&out, at, sizeof out);
    return out;
}
template <class T> T load_stream(const void *at, QC_WHERE) { return load_global<T>(at, file, line); }
template <class T> T load_coherent(const void *at, QC_WHERE) { return load_global<T>(at, file, line); }
template <class T> void store_global(void *at, const T &value, QC_WHERE) {
    emulation::note(at, sizeof(T), false, file, line);
    memcpy(at, &value, sizeof value);
}

template <int Bytes> void copy_async(void *to, const void *from, int valid = Bytes, QC_WHERE) {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "copies have 4, 8 or 16 bytes");
    emulation::note(to, Bytes, true, file, line);
    if (valid) emulation::note(from, Bytes, false, file, -line);
    const emulation::Copy copy{to, from, Bytes, (unsigned)valid};
    if (emulation::grid.eager) emulation::land(copy);
    emulation::grid.current->open.push_back(copy);
}
inline void commit() {
    auto &self = *emulation::grid.current;
    self.groups.push_back(std::move(self.open));
    self.open.clear();
}
template <int Open> void wait() {
    auto &groups = emulation::grid.current->groups;
    while (groups.size() > Open) {
        for (const auto &copy : groups[0]) {
            if (emulation::grid.eager) emulation::wrote(copy.to, copy.bytes);
            else emulation::land(copy);
        }
        groups.erase(groups.begin());
    }
}

struct Row {
    const unsigned char *at;
};
struct Four {
    uint32_t word[4];
};
inline void load_matrices(uint32_t (&out)[4], const void *row, QC_WHERE) {
    emulation::note(row, 16, true, file, line);
    const Four got = emulation::together<Four>("load_matrices", Row{(const unsigned char *)row}, [](const Row *in, Four *all) {
        for (int i = 0; i < 32; ++i)
            for (int m = 0; m < 4; ++m) memcpy(&all[i].word[m], in[8 * m + i / 4].at + 4 * (i % 4), 4);
    });
    memcpy(out, got.word, sizeof got.word);
}
inline void load_matrices_transposed(uint32_t (&out)[4], const void *row, QC_WHERE) {
    emulation::note(row, 16, true, file, line);
    const Four got = emulation::together<Four>(
        "load_matrices_transposed", Row{(const unsigned char *)row}, [](const Row *in, Four *all) {
            for (int i = 0; i < 32; ++i)
                for (int m = 0; m < 4; ++m) {
                    memcpy(&all[i].word[m], in[8 * m + 2 * (i % 4)].at + 2 * (i / 4), 2);
                    memcpy((char *)&all[i].word[m] + 2, in[8 * m + 2 * (i % 4) + 1].at + 2 * (i / 4), 2);
                }
        });
    memcpy(out, got.word, sizeof got.word);
}

/* Operands and sums of a matrix product as one lane holds them. */
template <class Sum> struct Fragments {
    Sum c[4];
    uint32_t a[4], b[2];
};
template <class Sum> struct Sums {
    Sum c[4];
};
/* c += A B with elements of `Width` bits; `product` multiplies two of them, `close` ends a sum. */
template <int Width, class Term, class Sum, class Product, class Close>
void mma(const char *what, Sum (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Product product, Close close) {
    Fragments<Sum> mine;
    memcpy(mine.c, c, sizeof mine.c);
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    const auto got = emulation::together<Sums<Sum>>(what, mine, [&](const Fragments<Sum> *in, Sums<Sum> *out) {
        constexpr int each = 32 / Width, half = 4 * each;
        const uint32_t mask = Width == 32 ? ~0u : (1u << Width) - 1;
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i) {
                const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
                Term sum = 0;
                for (int k = 0; k < 2 * half; ++k) {
                    const int pair = k % half / each, upper = k / half, shift = k % each * Width;
                    const uint32_t left = in[4 * (row % 8) + pair].a[row / 8 + 2 * upper] >> shift & mask;
                    const uint32_t right = in[4 * column + pair].b[upper] >> shift & mask;
                    sum += product(left, right);
                }
                out[lane].c[i] = close(in[lane].c[i], sum);
            }
    });
    memcpy(c, got.c, sizeof got.c);
}
inline int wrap_add(int a, int b) { return (int)((uint32_t)a + (uint32_t)b); }
inline void count(uint64_t qc_traffic::*kind) {
    if (emulation::grid.traffic && lane() == 0) ++(emulation::grid.traffic->*kind);
}
inline void mma_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    count(&qc_traffic::mma_s8);
    mma<8, int>("mma_s8", c, a, b, [](uint32_t x, uint32_t y) { return (int8_t)x * (int8_t)y; }, wrap_add);
}
inline void mma_s4(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    count(&qc_traffic::mma_s4);
    const auto product = [](uint32_t x, uint32_t y) { return ((int)(x ^ 8) - 8) * ((int)(y ^ 8) - 8); };
    mma<4, int>("mma_s4", c, a, b, product, wrap_add);
}
inline void mma_b1_xor(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    count(&qc_traffic::mma_b1);
    mma<1, int>("mma_b1_xor", c, a, b, [](uint32_t x, uint32_t y) { return (int)(x ^ y); }, wrap_add);
}
inline void mma_b1_and(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    count(&qc_traffic::mma_b1);
    mma<1, int>("mma_b1_and", c, a, b, [](uint32_t x, uint32_t y) { return (int)(x & y); }, wrap_add);
}
/* The device does not state the order of its float sums; here they are exact to float64 and rounded once. */
inline float rounded(float c, double sum) { return (float)(c + sum); }
inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    count(&qc_traffic::mma_f16);
    const auto product = [](uint32_t x, uint32_t y) { return numbers::half.value(x) * numbers::half.value(y); };
    mma<16, double>("mma_f16", c, a, b, product, rounded);
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    count(&qc_traffic::mma_f16);
    const auto product = [](uint32_t x, uint32_t y) { return numbers::bfloat.value(x) * numbers::bfloat.value(y); };
    mma<16, double>("mma_bf16", c, a, b, product, rounded);
}
inline void mma_e4m3(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    count(&qc_traffic::mma_e4m3);
    const auto product = [](uint32_t x, uint32_t y) { return numbers::e4m3.value(x) * numbers::e4m3.value(y); };
    mma<8, double>("mma_e4m3", c, a, b, product, rounded);
}

} /* namespace qc */
