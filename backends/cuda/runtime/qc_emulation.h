/* The other half of `qc_device.h`: kernels on a processor, one grid at a time, lane by lane.
 *
 * Every lane is a fiber that runs until it must meet others: at a barrier, or at an operation of a whole warp, which the
 * last lane to arrive computes for all. Nothing is more permissive than the device: shared memory starts as garbage,
 * asynchronous copies land only when they are waited for, misaligned vectors and lanes that meet in different places are
 * faults. Lanes run in an order that the caller chooses; results that depend on it show a missing barrier.
 * It also counts what decides the speed: wavefronts of shared memory, sectors of global memory, matrix products.
 */
#pragma once

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <random>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int32_t x, y;
};
struct alignas(16) int4 {
    int32_t x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int32_t x, int32_t y) { return {x, y}; }
inline int4 make_int4(int32_t x, int32_t y, int32_t z, int32_t w) { return {x, y, z, w}; }

/* What a grid did. Ideal is what the same bytes would take without bank conflicts, or in whole sectors of 32 bytes. */
struct qc_traffic {
    uint64_t shared_wavefronts, shared_ideal;
    uint64_t global_sectors, global_ideal;
    uint64_t mma_s8, mma_s4, mma_b1, mma_f16, mma_e4m3;
    uint64_t barriers;
};

namespace qc {
namespace emulation {

constexpr unsigned kLanes = 32, kStack = 64 * 1024, kSlot = 128;

struct Copy {
    void *to;
    const void *from;
    unsigned bytes, valid;
};
struct Access {
    unsigned lane;
    const void *at;
    unsigned bytes;
    bool shared;
};
/* Where a lane is in the source and how often it was there: the same for lanes that do one thing together. */
using Moment = std::pair<std::pair<const char *, int>, unsigned>;

struct Fiber {
    ucontext_t context;
    void *fake_stack = nullptr;
    unsigned char *stack = nullptr;
    unsigned thread = 0;
    bool done = false;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    std::map<std::pair<const char *, int>, unsigned> visits;
};
struct Warp {
    unsigned arrived = 0, generation = 0;
    const char *what = nullptr;
    alignas(16) unsigned char in[kLanes][kSlot], out[kLanes][kSlot];
    std::map<Moment, std::vector<Access>> accesses;
};
struct Grid {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned> order, place;
    ucontext_t main;
    const unsigned char *main_stack = nullptr;
    size_t main_stack_size = 0;
    void *main_fake_stack = nullptr;
    Fiber *current = nullptr;
    void (*body)(const void *) = nullptr;
    const void *args = nullptr;
    unsigned char *shared = nullptr;
    unsigned size[3] = {1, 1, 1}, block[3] = {0, 0, 0};
    unsigned arrived = 0, generation = 0, finished = 0, idle = 0;
    const char *fault = nullptr;
    qc_traffic *traffic = nullptr;
};
inline Grid grid;

inline void swap(ucontext_t *from, ucontext_t *to, void **fake_stack, const void *stack, size_t size, bool dies) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(dies ? nullptr : fake_stack, stack, size);
    swapcontext(from, to);
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(*fake_stack, &bottom, &bytes);
    (void)bottom, (void)bytes;
#else
    (void)fake_stack, (void)stack, (void)size, (void)dies;
    swapcontext(from, to);
#endif
}
inline void leave(bool dies) {
    Fiber *self = grid.current;
    swap(&self->context, &grid.main, &self->fake_stack, grid.main_stack, grid.main_stack_size, dies);
}
/* Ends the grid; the lane never comes back. */
[[noreturn]] inline void fail(const char *fault) {
    if (!grid.fault) grid.fault = fault;
    leave(true);
    abort();
}
inline void next() {
    Fiber *self = grid.current;
    const unsigned count = (unsigned)grid.fibers.size();
    for (unsigned step = 1; step <= count; ++step) {
        Fiber &other = grid.fibers[grid.order[(grid.place[self->thread] + step) % count]];
        if (other.done) continue;
        if (&other == self) return;
        grid.current = &other;
        swap(&self->context, &other.context, &self->fake_stack, other.stack, kStack, false);
        return;
    }
}
inline void pause() {
    if (++grid.idle > 4 * grid.fibers.size()) fail("lanes wait for lanes that have left, or that wait elsewhere");
    next();
}
inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!grid.main_stack) grid.main_stack = (const unsigned char *)bottom, grid.main_stack_size = bytes;
#endif
    grid.body(grid.args);
    grid.current->done = true;
    grid.idle = 0;
    if (++grid.finished == grid.fibers.size()) leave(true);
    else next();
    abort();
}

/* An operation of all lanes of a warp: `compute` gets what each brought and says what each gets. */
template <class Out, class In, class Compute> Out together(const char *what, const In &mine, Compute compute) {
    static_assert(sizeof(In) <= kSlot && sizeof(Out) <= kSlot, "a lane brings and gets at most one slot");
    const unsigned lane = grid.current->thread % kLanes;
    Warp &warp = grid.warps[grid.current->thread / kLanes];
    if (warp.arrived && strcmp(warp.what, what)) fail("lanes of a warp meet in different operations");
    warp.what = what;
    memcpy(warp.in[lane], &mine, sizeof mine);
    const unsigned generation = warp.generation;
    if (++warp.arrived == kLanes) {
        In in[kLanes];
        Out out[kLanes];
        for (unsigned i = 0; i < kLanes; ++i) memcpy(&in[i], warp.in[i], sizeof(In));
        compute(in, out);
        for (unsigned i = 0; i < kLanes; ++i) memcpy(warp.out[i], &out[i], sizeof(Out));
        warp.arrived = 0;
        ++warp.generation;
        grid.idle = 0;
    } else {
        while (warp.generation == generation) pause();
    }
    Out result;
    memcpy(&result, warp.out[lane], sizeof result);
    return result;
}

inline void note(const void *at, unsigned bytes, bool shared, const char *file, int line) {
    if ((uintptr_t)at % bytes) fail("an access is not aligned to its size");
    if (!grid.traffic) return;
    const std::pair<const char *, int> where{file, line};
    const Moment moment{where, grid.current->visits[where]++};
    grid.warps[grid.current->thread / kLanes].accesses[moment].push_back({grid.current->thread % kLanes, at, bytes, shared});
}
/* Lanes that one wavefront can serve: 128 bytes. Lanes that read one word share it. */
inline void count_shared(const std::vector<Access> &accesses) {
    const unsigned at_once = std::min(128 / accesses[0].bytes, kLanes);
    for (unsigned first = 0; first < kLanes; first += at_once) {
        std::vector<uintptr_t> banks[kLanes];
        size_t most = 0;
        for (const Access &access : accesses) {
            if (access.lane < first || access.lane >= first + at_once) continue;
            for (unsigned byte = 0; byte < std::max(access.bytes, 4u); byte += 4) {
                const uintptr_t word = ((uintptr_t)access.at + byte) / 4;
                auto &bank = banks[word % kLanes];
                if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
                most = std::max(most, bank.size());
            }
        }
        grid.traffic->shared_wavefronts += most;
        grid.traffic->shared_ideal += most ? 1 : 0;
    }
}
inline void count_global(const std::vector<Access> &accesses) {
    std::vector<uintptr_t> sectors;
    uint64_t bytes = 0;
    for (const Access &access : accesses) {
        bytes += access.bytes;
        sectors.push_back((uintptr_t)access.at / 32);
    }
    std::sort(sectors.begin(), sectors.end());
    sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
    grid.traffic->global_sectors += sectors.size();
    grid.traffic->global_ideal += std::min<uint64_t>((bytes + 31) / 32, sectors.size());
}
inline void count_accesses() {
    for (Warp &warp : grid.warps)
        for (const auto &entry : warp.accesses) {
            if (entry.second[0].shared) count_shared(entry.second);
            else count_global(entry.second);
        }
}

inline void prepare(Fiber &fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, (void (*)())enter, 0);
}
inline void run_block(unsigned threads, size_t shared_bytes) {
    std::vector<unsigned char> memory(shared_bytes + 128, 0xcd);
    grid.shared = memory.data() + (128 - (uintptr_t)memory.data() % 128);
#if defined(__SANITIZE_ADDRESS__)
    /* The end of what was asked for is the end of an allocation of its own. */
    unsigned char *exact = nullptr;
    if (posix_memalign((void **)&exact, 128, shared_bytes ? shared_bytes : 1)) abort();
    memset(exact, 0xcd, shared_bytes);
    grid.shared = exact;
#endif
    std::vector<unsigned char> stacks((size_t)threads * kStack);
    grid.fibers = std::vector<Fiber>(threads);
    grid.warps = std::vector<Warp>(threads / kLanes);
    grid.arrived = grid.generation = grid.finished = grid.idle = 0;
    for (unsigned i = 0; i < threads; ++i) {
        Fiber &fiber = grid.fibers[i];
        fiber.thread = i;
        fiber.stack = stacks.data() + (size_t)i * kStack;
        prepare(fiber);
    }
    grid.current = &grid.fibers[grid.order[0]];
    swap(&grid.main, &grid.current->context, &grid.main_fake_stack, grid.current->stack, kStack, false);
    if (grid.traffic && !grid.fault) count_accesses();
#if defined(__SANITIZE_ADDRESS__)
    free(exact);
#endif
}

/* Runs a grid; returns what went wrong, or NULL. `order` 0 runs lanes in their order, 1 backwards, others shuffled. */
inline const char *run(void (*body)(const void *), const void *args, const unsigned blocks[3], unsigned threads,
                       size_t shared_bytes, unsigned order, qc_traffic *traffic) {
    if (!threads || threads % kLanes || threads > 1024) return "a block has whole warps, at most 32 of them";
    grid = Grid();
    grid.body = body;
    grid.args = args;
    grid.traffic = traffic;
    memcpy(grid.size, blocks, sizeof grid.size);
    for (unsigned i = 0; i < threads; ++i) grid.order.push_back(i);
    if (order == 1) std::reverse(grid.order.begin(), grid.order.end());
    if (order > 1) std::shuffle(grid.order.begin(), grid.order.end(), std::mt19937(order));
    grid.place.resize(threads);
    for (unsigned i = 0; i < threads; ++i) grid.place[grid.order[i]] = i;
    for (unsigned z = 0; z < blocks[2]; ++z)
        for (unsigned y = 0; y < blocks[1]; ++y)
            for (unsigned x = 0; x < blocks[0]; ++x) {
                const unsigned at[3] = {x, y, z};
                memcpy(grid.block, at, sizeof at);
                run_block(threads, shared_bytes);
                if (grid.fault) return grid.fault;
            }
    return nullptr;
}

} /* namespace emulation */
} /* namespace qc */

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
inline uint16_t to_half(float a) { return (uint16_t)numbers::half.round(a); }
inline float from_half(uint16_t a) { return (float)numbers::half.value(a); }
inline float from_bfloat(uint16_t a) { return from_bits((uint32_t)a << 16); }
inline uint16_t to_bfloat(float a) { return (uint16_t)numbers::bfloat.round(a); }

template <class T> T load_shared(const void *at, QC_WHERE) {
    emulation::note(at, sizeof(T), true, file, line);
    T out;
    memcpy(&out, at, sizeof out);
    return out;
}
template <class T> void store_shared(void *at, const T &value, QC_WHERE) {
    emulation::note(at, sizeof(T), true, file, line);
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
    emulation::grid.current->open.push_back({to, from, Bytes, (unsigned)valid});
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
            memcpy(copy.to, copy.from, copy.valid);
            memset((char *)copy.to + copy.valid, 0, copy.bytes - copy.valid);
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
