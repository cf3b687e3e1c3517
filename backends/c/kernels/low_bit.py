"""Matrix products with weights of few bits and a scale for every block of inputs."""

from __future__ import annotations

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels.row import Blocked, MicroKernel

_X86_DOT = Blocked(16, 4)
"""Sixteen outputs, four inputs of each: one operand of vpdpbusd; one byte holds the same lane of several runs."""
_ARM_DOT = Blocked(8, 4)
"""Two operands of sdot."""
_X86_LANES = Blocked(16, 1)
"""Sixteen floats; one word of 32 bits holds the same output for several inputs."""
_ARM_LANES = Blocked(8, 1)
"""Eight floats."""

ROWS = (
    MicroKernel(
        "gemm_wna8",
        "qc_gemm_wna8.h",
        {
            Isa.PORTABLE: "c/runtime/qc_gemm_wna8_portable.c",
            Isa.AVX2: "x86/qc_gemm_wna8_avx2.c",
            Isa.AVX512: "x86/qc_gemm_wna8_avx512.c",
            Isa.NEON: "arm/qc_gemm_wna8_neon.c",
            Isa.DOTPROD: "arm/qc_gemm_wna8_dotprod.c",
        },
        {Isa.PORTABLE: _X86_DOT, Isa.AVX2: _X86_DOT, Isa.AVX512: _X86_DOT, Isa.NEON: _ARM_DOT, Isa.DOTPROD: _ARM_DOT},
    ),
    MicroKernel(
        "gemm_wnf32",
        "qc_gemm_wnf32.h",
        {
            Isa.PORTABLE: "c/runtime/qc_gemm_wnf32_portable.c",
            Isa.AVX2: "x86/qc_gemm_wnf32_avx2.c",
            Isa.AVX512: "x86/qc_gemm_wnf32_avx512.c",
            Isa.NEON: "arm/qc_gemm_wnf32_neon.c",
        },
        {Isa.PORTABLE: _X86_LANES, Isa.AVX2: _X86_LANES, Isa.AVX512: _X86_LANES, Isa.NEON: _ARM_LANES},
    ),
)
