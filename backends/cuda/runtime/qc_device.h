/* What kernels are written in: lanes, shared memory, copies, matrix units. With nvcc these are instructions; without it
 * `qc_emulation.h` gives each the meaning that NVIDIA's PTX manual states, so that the same kernels run on a processor.
 *
 * Names of the matrix products say shapes by their operands' kind; C is [16, 8], A [16, K], B [K, 8], a lane holds
 *   row = lane / 4, pair = lane % 4
 *   C: c[0], c[1] at (row, 2 pair), (row, 2 pair + 1); c[2], c[3] eight rows below
 *   A: registers of 32 bits, e elements each: a[0] at (row, e pair ...), a[1] eight rows below, a[2] and a[3] half of K on
 *   B: b[0] at (e pair ..., row), b[1] half of K on; here `row` is a column of the product
 */
#pragma once

#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

#ifndef __CUDACC__
#include "qc_emulation.h"
#else

#define QC_DEVICE static __device__ __forceinline__
#define QC_MEMBER __device__ __forceinline__
#define QC_UNROLL _Pragma("unroll")
/* A kernel of the library: `body` is a device function of the arguments. */
#define QC_KERNEL(name, type, threads, blocks, ...)                                                                    \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ type args) {            \
        __VA_ARGS__(args);                                                                                             \
    }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define QC_AMPERE 1
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#define QC_ADA 1
#endif

extern __shared__ __align__(1024) unsigned char qc_dynamic_shared[];

namespace qc {

QC_DEVICE unsigned thread() { return threadIdx.x; }
QC_DEVICE unsigned threads() { return blockDim.x; }
QC_DEVICE unsigned lane() { return threadIdx.x & 31; }
QC_DEVICE unsigned warp() { return threadIdx.x >> 5; }
QC_DEVICE unsigned block_x() { return blockIdx.x; }
QC_DEVICE unsigned block_y() { return blockIdx.y; }
QC_DEVICE unsigned block_z() { return blockIdx.z; }
QC_DEVICE unsigned blocks_x() { return gridDim.x; }
QC_DEVICE unsigned blocks_y() { return gridDim.y; }
QC_DEVICE unsigned blocks_z() { return gridDim.z; }
QC_DEVICE unsigned char *shared() { return qc_dynamic_shared; }

QC_DEVICE void sync() { __syncthreads(); }
QC_DEVICE void sync_warp() { __syncwarp(); }
/* Everything written before is seen by all blocks before anything written after. */
QC_DEVICE void fence() { __threadfence(); }
template <class T> QC_DEVICE T shuffle(T value, unsigned from) { return __shfl_sync(0xffffffffu, value, from); }
template <class T> QC_DEVICE T shuffle_xor(T value, unsigned mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
QC_DEVICE unsigned ballot(bool value) { return __ballot_sync(0xffffffffu, value); }
QC_DEVICE float atomic_add(float *to, float value) { return atomicAdd(to, value); }
QC_DEVICE int atomic_add(int *to, int value) { return atomicAdd(to, value); }

QC_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
/* Product and sum rounded apart, which a plain `a * b + c` would not be. */
QC_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
QC_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
QC_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
QC_DEVICE float square_root(float a) { return __fsqrt_rn(a); }
QC_DEVICE float to_float(int a) { return __int2float_rn(a); }
QC_DEVICE int round_even(float a) { return __float2int_rn(a); }
QC_DEVICE float minimum(float a, float b) { return fminf(a, b); }
QC_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
QC_DEVICE float magnitude(float a) { return fabsf(a); }
QC_DEVICE uint32_t bits(float a) { return __float_as_uint(a); }
QC_DEVICE float from_bits(uint32_t a) { return __uint_as_float(a); }
QC_DEVICE int count_ones(uint32_t a) { return __popc(a); }
/* Four products of signed bytes and their sum, plus c. */
QC_DEVICE int dot4(uint32_t a, uint32_t b, int c) {
    return __dp4a((int)a, (int)b, c);
}
/* The larger of two signed bytes, four times. */
QC_DEVICE uint32_t most_bytes(uint32_t a, uint32_t b) { return __vmaxs4(a, b); }
/* Any function of three bits, at every position: `table` is what it gives for 0xf0, 0xcc, 0xaa. */
template <int Table> QC_DEVICE uint32_t logic(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t out;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(out) : "r"(a), "r"(b), "r"(c), "n"(Table));
    return out;
}
/* Four of the eight bytes of a (0 to 3) and b (4 to 7), chosen by the nibbles of `order`, lowest first. */
QC_DEVICE uint32_t choose_bytes(uint32_t a, uint32_t b, uint32_t order) { return __byte_perm(a, b, order); }

/* Numbers of 16 bits, two in a register: the first in the low half. */
QC_DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t out;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
}
QC_DEVICE uint32_t half2_add(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}
QC_DEVICE uint32_t half2_subtract(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}
QC_DEVICE uint32_t half2_multiply(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}
/* Two numbers in bfloat16, from Ampere on. */
QC_DEVICE uint32_t bfloat2_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t out = 0;
#ifdef QC_AMPERE
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
#endif
    return out;
}
QC_DEVICE uint16_t to_half(float a) {
    uint16_t out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(a));
    return out;
}
QC_DEVICE float from_half(uint16_t a) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(a));
    return out;
}
QC_DEVICE float from_bfloat(uint16_t a) { return __uint_as_float((uint32_t)a << 16); }
QC_DEVICE uint16_t to_bfloat(float a) {
#ifdef QC_AMPERE
    uint16_t out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(a));
    return out;
#else
    const uint32_t from = __float_as_uint(a);
    if ((from & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((from + 0x7fffu + ((from >> 16) & 1)) >> 16);
#endif
}

/* Two floats in e4m3, the first in the low byte: to nearest, ties to even, beyond 448 it stays 448; NaN is 0x7f. */
#ifdef QC_ADA
QC_DEVICE uint32_t to_e4m3(float first, float second) {
    uint16_t out;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(second), "f"(first));
    return out;
}
#else
QC_DEVICE uint32_t to_e4m3_alone(float a) {
    const uint32_t sign = __float_as_uint(a) >> 24 & 0x80, size = __float_as_uint(a) & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7f;
    /* Below 2^-6 the steps are those of float32 at 2^14. */
    const uint32_t small = __float_as_uint(__fadd_rn(__uint_as_float(size), 16384.0f)) - 0x46800000u;
    const uint32_t large = ((size + 0x7ffffu + (size >> 20 & 1)) >> 20) - (120 << 3);
    const uint32_t code = size < 0x3c800000u ? small : large;
    return sign | (code < 0x7e ? code : 0x7e);
}
QC_DEVICE uint32_t to_e4m3(float first, float second) { return to_e4m3_alone(first) | to_e4m3_alone(second) << 8; }
#endif

QC_DEVICE uint32_t shared_address(const void *at) { return (uint32_t)__cvta_generic_to_shared(at); }

/* 4, 8 or 16 bytes at once. Constants that are read once by the whole grid stream past the first cache. */
template <class T> QC_DEVICE T load_shared(const void *at) { return *(const T *)at; }
template <class T> QC_DEVICE void store_shared(void *at, const T &value) { *(T *)at = value; }
template <class T> QC_DEVICE T load_global(const void *at) { return __ldg((const T *)at); }
template <class T> QC_DEVICE T load_stream(const void *at) { return __ldcs((const T *)at); }
template <class T> QC_DEVICE void store_global(void *at, const T &value) { *(T *)at = value; }
/* What another block may write while this one runs. */
template <class T> QC_DEVICE T load_coherent(const void *at) { return __ldcg((const T *)at); }

/* Copies Bytes (4, 8 or 16) to shared memory while the lane goes on; the first `valid` come from `from`, the rest are
 * zeros, and nothing is read when it is 0. */
template <int Bytes> QC_DEVICE void copy_async(void *to, const void *from, int valid = Bytes) {
#ifdef QC_AMPERE
    if (Bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(Bytes),
                     "r"(valid));
#else
    uint32_t words[Bytes / 4];
    QC_UNROLL
    for (int i = 0; i < Bytes / 4; ++i) words[i] = 4 * i < valid ? ((const uint32_t *)from)[i] : 0;
    QC_UNROLL
    for (int i = 0; i < Bytes / 4; ++i) ((uint32_t *)to)[i] = words[i];
#endif
}
/* Ends a group of copies of this lane. */
QC_DEVICE void commit() {
#ifdef QC_AMPERE
    asm volatile("cp.async.commit_group;");
#endif
}
/* Until at most `Open` of this lane's latest groups are under way; other lanes' copies need a barrier besides. */
template <int Open> QC_DEVICE void wait() {
#ifdef QC_AMPERE
    asm volatile("cp.async.wait_group %0;" ::"n"(Open) : "memory");
#endif
}

/* Four matrices of eight rows of 16 bytes; lane i says where row i % 8 of matrix i / 8 lies. Lane l gets the four bytes
 * at 4 (l % 4) of row l / 4 of each; with `transposed`, elements of 16 bits, those of rows 2 (l % 4) and on in column
 * l / 4. */
QC_DEVICE void load_matrices(uint32_t (&out)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}
QC_DEVICE void load_matrices_transposed(uint32_t (&out)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

#define QC_MMA_16(text, out, c)                                                                                        \
    asm(text " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                               \
                 : "+" out(c[0]), "+" out(c[1]), "+" out(c[2]), "+" out(c[3])                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define QC_MMA_8(text, out, c0, c1, a, b)                                                                              \
    asm(text " {%0, %1}, {%2}, {%3}, {%0, %1};" : "+" out(c0), "+" out(c1) : "r"(a), "r"(b))

/* Before Ampere the products are smaller; the registers hold the same elements. */
#define QC_MMA_QUARTERS(text, c)                                                                                       \
    QC_MMA_8(text, "r", c[0], c[1], a[0], b[0]);                                                                       \
    QC_MMA_8(text, "r", c[2], c[3], a[1], b[0]);                                                                       \
    QC_MMA_8(text, "r", c[0], c[1], a[2], b[1]);                                                                       \
    QC_MMA_8(text, "r", c[2], c[3], a[3], b[1])

/* c += A B over signed bytes, K = 32. */
QC_DEVICE void mma_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QC_AMPERE
    QC_MMA_16("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", "r", c);
#else
    QC_MMA_QUARTERS("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32", c);
#endif
}
/* c += A B over signed nibbles, K = 64. From Hopper on it is emulated: take bytes there. */
QC_DEVICE void mma_s4(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QC_AMPERE
    QC_MMA_16("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32", "r", c);
#else
    QC_MMA_QUARTERS("mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32", c);
#endif
}
/* c += how many bits of A and B differ, K = 256. Native before Hopper. */
QC_DEVICE void mma_b1_xor(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QC_AMPERE
    QC_MMA_16("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc", "r", c);
#else
    QC_MMA_QUARTERS("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc", c);
#endif
}
/* c += how many bits are set in both A and B, K = 256; from Ampere to Hopper. */
QC_DEVICE void mma_b1_and(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QC_AMPERE
    QC_MMA_16("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc", "r", c);
#endif
}
/* c += A B over half-precision floats, K = 16, sums in float32. */
QC_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QC_AMPERE
    QC_MMA_16("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "f", c);
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}
/* c += A B over bfloat16, K = 16, sums in float32; from Ampere on. */
QC_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QC_AMPERE
    QC_MMA_16("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "f", c);
#endif
}
/* c += A B over e4m3, K = 32, sums in float32; from Ada on. */
QC_DEVICE void mma_e4m3(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QC_ADA
    QC_MMA_16("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32", "f", c);
#endif
}

} /* namespace qc */
#endif
