/* Kernels on a processor, one grid at a time, lane by lane: `qc_emulation.h` gives the instructions their meaning.
 *
 * Every lane is a fiber that runs until it must meet others: at a barrier, or at an operation of a whole warp, which the
 * last lane to arrive computes for all. Nothing is more permissive than the device: shared memory starts as garbage,
 * asynchronous copies land when they are waited for or at once, misaligned vectors and lanes that meet in different places
 * are faults. Lanes run in an order that the caller chooses; results that depend on it show a missing barrier.
 * It also counts what decides the speed: wavefronts of shared memory, sectors of global memory, matrix products.
 */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
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
    uint64_t mma_s8, mma_s4, mma_b1, mma_f16, mma_e4m3, wgmma;
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
/* Sums that the hardware has while products of a warpgroup are under way: what they will be, and how many of those
 * products there are. */
struct Flight {
    std::vector<unsigned char> value;
    unsigned open = 0;
};
/* A lane's part in the products of its warpgroup; each step ends one of them. */
struct Products {
    std::map<void *, Flight> flights;
    std::vector<std::function<void()>> open;
    std::vector<std::vector<std::function<void()>>> groups;
    bool settled = false;
};
/* Who wrote 16 bytes of shared memory, and what that lane had exposed until then. */
struct Written {
    const unsigned *exposed = nullptr;
    unsigned before = 0;
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
    Products products;
    unsigned exposed = 0;
    std::map<std::pair<const char *, int>, unsigned> visits;
};
struct Warp {
    unsigned arrived = 0, generation = 0;
    const char *what = nullptr;
    alignas(16) unsigned char in[kLanes][kSlot], out[kLanes][kSlot];
    std::map<Moment, std::vector<Access>> accesses;
};
/* Four warps on their way to one product. */
struct Warpgroup {
    unsigned arrived = 0, generation = 0;
    const char *what = nullptr;
    uint64_t left = 0, right = 0;
};
struct Grid {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<Warpgroup> warpgroups;
    std::vector<Written> written;
    std::vector<unsigned> order, place;
    ucontext_t main;
    const unsigned char *main_stack = nullptr;
    size_t main_stack_size = 0;
    void *main_fake_stack = nullptr;
    Fiber *current = nullptr;
    void (*body)(const void *) = nullptr;
    const void *args = nullptr;
    unsigned char *shared = nullptr;
    size_t shared_bytes = 0;
    bool eager = false; /* what may happen from now until it is waited for happens now, and else at the end */
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
/* Bytes of shared memory were written as lanes write. */
inline void wrote(const void *at, unsigned bytes) {
    const size_t first = (size_t)((const unsigned char *)at - grid.shared);
    for (size_t i = first / 16; i <= (first + bytes - 1) / 16 && i < grid.written.size(); ++i)
        grid.written[i] = {&grid.current->exposed, grid.current->exposed};
}
inline void land(const Copy &copy) {
    memcpy(copy.to, copy.from, copy.valid);
    memset((char *)copy.to + copy.valid, 0, copy.bytes - copy.valid);
    wrote(copy.to, copy.bytes);
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
    std::vector<unsigned char> memory(shared_bytes + 1024, 0xcd);
    grid.shared = memory.data() + (1024 - (uintptr_t)memory.data() % 1024);
    grid.shared_bytes = shared_bytes;
    grid.written = std::vector<Written>((shared_bytes + 15) / 16);
#if defined(__SANITIZE_ADDRESS__)
    /* The end of what was asked for is the end of an allocation of its own. */
    unsigned char *exact = nullptr;
    if (posix_memalign((void **)&exact, 1024, shared_bytes ? shared_bytes : 1)) abort();
    memset(exact, 0xcd, shared_bytes);
    grid.shared = exact;
#endif
    std::vector<unsigned char> stacks((size_t)threads * kStack);
    grid.fibers = std::vector<Fiber>(threads);
    grid.warps = std::vector<Warp>(threads / kLanes);
    grid.warpgroups = std::vector<Warpgroup>((threads + 127) / 128);
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
    if (std::max(blocks[1], blocks[2]) > 65535) return "a grid has at most 65535 blocks along y and z";
    grid = Grid();
    grid.body = body;
    grid.args = args;
    grid.traffic = traffic;
    grid.eager = order == 1;
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
