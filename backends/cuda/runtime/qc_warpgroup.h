/* Matrix products of Hopper: four warps side by side, a warpgroup, multiply what lies in shared memory while they go
 * on. Compute capability 9.0 alone has them, in code for `sm_90a`.
 *
 * c += A B with A [64, K] and B [N, K], K = 32 bytes of a row; c is [64, N], of which warp w of the warpgroup holds
 * rows 16 w and on: c[j] is its 16 by 8 part from column 8 j on, in the lanes as `qc_device.h` says. B lies in shared
 * memory, A too or, for halves, in registers: each warp has its 16 rows in the lanes as `qc_device.h` says.
 *
 * An operand is slices of 128 bytes of rows, eight rows after one another at a multiple of 1024 bytes: chunk i of 16
 * bytes of row r lies at place i ^ r % 8, so that eight rows of one chunk lie in different banks. `describe` makes the
 * number by which instructions know an operand: bits 0 to 13 its address / 16, 32 to 45 the bytes from eight rows to
 * the next eight / 16, 62 and 63 the way in which chunks change places; 16 to 29 have no meaning here. The hardware
 * adds bits 7 to 9 of addresses to bits 4 to 6, without carries, so that K goes on by adding bytes / 16.
 *
 * The order of things:
 *   expose           in each lane that wrote an operand, behind the write and in front of the barrier
 *   settle           in front of products whose registers were touched before, or are products' first
 *   multiply_*       any number; the registers of c, and of A, belong to the hardware from here on
 *   close            ends a group of products
 *   await<Open>(c..) until at most Open groups are under way; the registers named are the lane's own again
 */
#pragma once

#include "qc_device.h"

namespace qc {
constexpr int kWarpgroup = 128, kDeep = 32, kAtom = 1024;

/* What `base` becomes for an operand at a multiple of 1024 bytes. */
QC_DEVICE uint64_t describe(const void *at) {
    constexpr uint64_t eight_rows = (uint64_t)(kAtom >> 4) << 32, unused = (uint64_t)1 << 16;
    constexpr uint64_t by_128 = (uint64_t)1 << 62;
    return by_128 | eight_rows | unused | (shared_address(at) & 0x3ffff) >> 4;
}
/* The operand `bytes` further along K, within its slice. */
QC_DEVICE uint64_t further(uint64_t description, int bytes) { return description + (uint64_t)(bytes >> 4); }
} /* namespace qc */

#ifndef __CUDACC__
#include "qc_warpgroup_emulation.h"
#else

namespace qc {

/* Which warpgroup of the block: the same in all lanes of a warp, and known to be. */
QC_DEVICE int warpgroup() { return __shfl_sync(0xffffffffu, (int)(threadIdx.x / kWarpgroup), 0); }
QC_DEVICE void expose() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
QC_DEVICE void settle() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
QC_DEVICE void close() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/* The registers are read and written here, and nowhere else around. */
template <int Count> QC_DEVICE void hold(int (&c)[Count][4]) {
    QC_UNROLL
    for (int j = 0; j < Count; ++j) {
        asm volatile("" : "+r"(c[j][0]), "+r"(c[j][1]), "+r"(c[j][2]), "+r"(c[j][3])::"memory");
    }
}
template <int Count> QC_DEVICE void hold(float (&c)[Count][4]) {
    QC_UNROLL
    for (int j = 0; j < Count; ++j) {
        asm volatile("" : "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])::"memory");
    }
}
template <int Open> QC_DEVICE void await() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Open) : "memory");
}
template <int Open, class Sum, int Count> QC_DEVICE void await(Sum (&c)[Count][4]) {
    await<Open>();
    hold(c);
}

#define QC_4(out, c) "+" out((c)[0]), "+" out((c)[1]), "+" out((c)[2]), "+" out((c)[3])
#define QC_16(out, c, j) QC_4(out, c[j]), QC_4(out, c[(j) + 1]), QC_4(out, c[(j) + 2]), QC_4(out, c[(j) + 3])
#define QC_64(out, c, j) QC_16(out, c, j), QC_16(out, c, (j) + 4), QC_16(out, c, (j) + 8), QC_16(out, c, (j) + 12)
#define QC_TEN(tens)                                                                                                   \
    ", %" tens "0, %" tens "1, %" tens "2, %" tens "3, %" tens "4, %" tens "5, %" tens "6, %" tens "7, %" tens         \
    "8, %" tens "9"
#define QC_NAMES_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9" QC_TEN("1") QC_TEN("2") ", %30, %31"
#define QC_NAMES_64                                                                                                    \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9" QC_TEN("1") QC_TEN("2") QC_TEN("3") QC_TEN("4") QC_TEN("5")               \
        ", %60, %61, %62, %63"
#define QC_NAMES_128                                                                                                   \
    QC_NAMES_64 ", %64, %65, %66, %67, %68, %69" QC_TEN("7") QC_TEN("8") QC_TEN("9") QC_TEN("10") QC_TEN("11")         \
        ", %120, %121, %122, %123, %124, %125, %126, %127"
#define QC_WGMMA_128(text, out, end)                                                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128" text                 \
                 " {" QC_NAMES_64 "}, %64, %65, p" end ";\n}"                                                          \
                 : QC_64(out, c, 0)                                                                                    \
                 : "l"(a), "l"(b), "r"(Adds))
#define QC_WGMMA_256(text, out, end)                                                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256" text                \
                 " {" QC_NAMES_128 "}, %128, %129, p" end ";\n}"                                                       \
                 : QC_64(out, c, 0), QC_64(out, c, 16)                                                                 \
                 : "l"(a), "l"(b), "r"(Adds))

#define QC_WGMMA_HALVES_64(text)                                                                                       \
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." text            \
                 " {" QC_NAMES_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"                                       \
                 : QC_16("f", c, 0), QC_16("f", c, 4)                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define QC_WGMMA_HALVES_128(text)                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32." text           \
                 " {" QC_NAMES_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"                                       \
                 : QC_64("f", c, 0)                                                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

/* Signed bytes, int32; the sums begin with c where `Adds`, with zeros otherwise. */
template <int Adds> QC_DEVICE void multiply_s8(int (&c)[16][4], uint64_t a, uint64_t b) {
    QC_WGMMA_128("k32.s32.s8.s8", "r", "");
}
template <int Adds> QC_DEVICE void multiply_s8(int (&c)[32][4], uint64_t a, uint64_t b) {
    QC_WGMMA_256("k32.s32.s8.s8", "r", "");
}
/* e4m3. The largest addend, c among them, decides what is kept: 13 bits behind the leading one of its place, the same
 * places of all others, what is below cut off, and as many of the sum. Observed, not stated: DeepSeek-AI 2024,
 * "DeepSeek-V3 Technical Report"; Microsoft Research 2025, "MMA-Sim". */
template <int Adds> QC_DEVICE void multiply_e4m3(float (&c)[16][4], uint64_t a, uint64_t b) {
    QC_WGMMA_128("k32.f32.e4m3.e4m3", "f", ", 1, 1");
}
/* Halves of either kind, 16 of them, sums in float32; A in registers. */
QC_DEVICE void multiply_f16(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) { QC_WGMMA_HALVES_64("f16.f16"); }
QC_DEVICE void multiply_f16(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) { QC_WGMMA_HALVES_128("f16.f16"); }
QC_DEVICE void multiply_bf16(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b) { QC_WGMMA_HALVES_64("bf16.bf16"); }
QC_DEVICE void multiply_bf16(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
    QC_WGMMA_HALVES_128("bf16.bf16");
}

} /* namespace qc */
#endif
