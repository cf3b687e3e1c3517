/* What an x86 processor has, and what its system saves when it switches threads; only both together can be used. */
#ifndef QC_CPU_H
#define QC_CPU_H

#include <stdint.h>

typedef struct {
    uint32_t a, b, c, d;
} qc_cpuid_answer;

static inline qc_cpuid_answer qc_cpuid(uint32_t leaf, uint32_t part) {
    qc_cpuid_answer r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(part));
    return r;
}

static inline int qc_all(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

#define QC_BIT(n) (UINT32_C(1) << (n))

/* Registers that the system saves: bits of XCR0, none when it saves none. */
static inline uint32_t qc_saved_registers(void) {
    uint32_t low, high;
    if (!qc_all(qc_cpuid(1, 0).c, QC_BIT(27))) return 0; /* OSXSAVE */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static inline qc_cpuid_answer qc_features(void) {
    const qc_cpuid_answer none = {0, 0, 0, 0};
    return qc_cpuid(0, 0).a < 7 ? none : qc_cpuid(7, 0);
}

static inline int qc_has_avx2(void) {
    const uint32_t fma_popcnt_avx_f16c = QC_BIT(12) | QC_BIT(23) | QC_BIT(28) | QC_BIT(29);
    const uint32_t avx2_bmi2 = QC_BIT(5) | QC_BIT(8);
    const uint32_t xmm_ymm = QC_BIT(1) | QC_BIT(2);
    return qc_all(qc_cpuid(1, 0).c, fma_popcnt_avx_f16c) && qc_all(qc_features().b, avx2_bmi2) &&
           qc_all(qc_saved_registers(), xmm_ymm);
}

static inline int qc_has_avx512(void) {
    const uint32_t f_dq_bw_vl = QC_BIT(16) | QC_BIT(17) | QC_BIT(30) | QC_BIT(31);
    const uint32_t vbmi_vnni_bitalg_vpopcntdq = QC_BIT(1) | QC_BIT(11) | QC_BIT(12) | QC_BIT(14);
    const uint32_t masks_zmm = QC_BIT(5) | QC_BIT(6) | QC_BIT(7);
    return qc_has_avx2() && qc_all(qc_features().b, f_dq_bw_vl) &&
           qc_all(qc_features().c, vbmi_vnni_bitalg_vpopcntdq) && qc_all(qc_saved_registers(), masks_zmm);
}

/* Linux gives tile registers to processes that ask for them. */
static inline int qc_permitted_tiles(void) {
#if defined(__linux__) && defined(__x86_64__)
    const long arch_prctl = 158, request_permission = 0x1023, tile_data = 18;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(arch_prctl), "D"(request_permission), "S"(tile_data)
                     : "rcx", "r11", "memory");
    return result == 0;
#else
    return 0;
#endif
}

static inline int qc_has_amx(void) {
    const uint32_t tile_int8 = QC_BIT(24) | QC_BIT(25);
    const uint32_t tile_registers = QC_BIT(17) | QC_BIT(18);
    return qc_has_avx512() && qc_all(qc_features().d, tile_int8) && qc_all(qc_saved_registers(), tile_registers) &&
           qc_permitted_tiles();
}

#endif
