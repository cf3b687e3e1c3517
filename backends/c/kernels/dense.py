"""Integer matrix products and convolutions."""

from __future__ import annotations

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels.row import Blocked, MicroKernel

X86_LAYOUT = Blocked(16, 4)
"""Sixteen outputs, four inputs of each: one operand of vpdpbusd, one row of an AMX tile."""
X86_DEPTHWISE = Blocked(64, 4, lanes=4)
"""Sixty-four channels, four taps of each, as interleaving the bytes of four pixels orders them."""
ARM_LAYOUTS = {Isa.NEON: Blocked(8, 16), Isa.DOTPROD: Blocked(8, 4), Isa.I8MM: Blocked(8, 8)}
"""Eight outputs; a run of inputs is what one product of the level sums: two smull, a lane of sdot, a half of smmla."""

ROWS = (
    MicroKernel(
        "gemm_i8",
        "qc_gemm_i8.h",
        {
            Isa.PORTABLE: "c/runtime/qc_gemm_i8_portable.c",
            Isa.AVX2: "x86/qc_gemm_i8_avx2.c",
            Isa.AVX512: "x86/qc_gemm_i8_avx512.c",
            Isa.AMX: "x86/qc_gemm_i8_amx.c",
            Isa.NEON: "arm/qc_gemm_i8_neon.c",
            Isa.DOTPROD: "arm/qc_gemm_i8_dotprod.c",
            Isa.I8MM: "arm/qc_gemm_i8_i8mm.c",
        },
        {Isa.PORTABLE: Blocked(1, 1), Isa.AVX2: X86_LAYOUT, Isa.AVX512: X86_LAYOUT, Isa.AMX: X86_LAYOUT, **ARM_LAYOUTS},
    ),
    MicroKernel(
        "depthwise_i8",
        "qc_depthwise_i8.h",
        {
            Isa.PORTABLE: "c/runtime/qc_depthwise_i8_portable.c",
            Isa.AVX512: "x86/qc_depthwise_i8_avx512.c",
            Isa.AVX2: "x86/qc_depthwise_i8_avx2.c",
            Isa.NEON: "arm/qc_depthwise_i8_neon.c",
            Isa.DOTPROD: "arm/qc_depthwise_i8_dotprod.c",
        },
        {
            Isa.PORTABLE: Blocked(1, 1),
            Isa.AVX2: X86_DEPTHWISE,
            Isa.AVX512: X86_DEPTHWISE,
            Isa.NEON: Blocked(16, 2),
            Isa.DOTPROD: Blocked(16, 4),
        },
    ),
)
