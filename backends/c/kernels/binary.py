"""Products of signs and of bit planes, and what makes activations signs."""

from __future__ import annotations

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels.floats import portable
from qcompiler.backends.c.kernels.row import Blocked, MicroKernel

X86_LAYOUT = Blocked(8, 8)
"""A word of eight outputs each: one register of 512 bits. The words are chained (`binary_packing.chained`)."""
ARM_LAYOUT = Blocked(4, 16)
"""A register of 128 bits of four outputs each."""
_LAYOUTS = {
    Isa.PORTABLE: Blocked(1, 8),
    Isa.AVX2: X86_LAYOUT,
    Isa.AVX512: X86_LAYOUT,
    Isa.NEON: ARM_LAYOUT,
    Isa.NEON32: ARM_LAYOUT,
}

ROWS = (
    MicroKernel(
        "gemm_b1",
        "qc_gemm_b1.h",
        {
            Isa.PORTABLE: "c/runtime/qc_gemm_b1_portable.c",
            Isa.AVX2: "x86/qc_gemm_b1_avx2.c",
            Isa.AVX512: "x86/qc_gemm_b1_avx512.c",
            Isa.NEON: "arm/qc_gemm_b1_neon.c",
            Isa.NEON32: "arm/qc_gemm_b1_neon32.c",
        },
        _LAYOUTS,
    ),
    MicroKernel(
        "gemm_bits",
        "qc_gemm_bits.h",
        {
            Isa.PORTABLE: "c/runtime/qc_gemm_bits_portable.c",
            Isa.AVX2: "x86/qc_gemm_bits_avx2.c",
            Isa.AVX512: "x86/qc_gemm_bits_avx512.c",
            Isa.NEON: "arm/qc_gemm_bits_neon.c",
            Isa.NEON32: "arm/qc_gemm_bits_neon32.c",
        },
        _LAYOUTS,
    ),
    MicroKernel(
        "pack_bits",
        "qc_pack_bits.h",
        {
            Isa.PORTABLE: "c/runtime/qc_pack_bits_portable.c",
            Isa.AVX2: "x86/qc_pack_bits_avx2.c",
            Isa.AVX512: "x86/qc_pack_bits_avx512.c",
            Isa.NEON: "arm/qc_pack_bits_neon.c",
        },
    ),
    portable("pack_planes"),
)
