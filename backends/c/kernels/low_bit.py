"""Matrix products with weights of few bits and a scale for every block of inputs."""

from __future__ import annotations

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels.row import Blocked, MicroKernel

_X86_DOT = Blocked(16, 4)
"""Sixteen outputs, four inputs of each: one operand of vpdpbusd; one byte holds the same lane of several runs."""
_ARM_DOT = Blocked(8, 4)
"""Two operands of sdot."""
_ARM_PAIRS = Blocked(8, 8)
"""Four operands of smmla."""
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
            Isa.AMX: "x86/qc_gemm_wna8_amx.c",
            Isa.NEON: "arm/qc_gemm_wna8_neon.c",
            Isa.DOTPROD: "arm/qc_gemm_wna8_dotprod.c",
            Isa.I8MM: "arm/qc_gemm_wna8_i8mm.c",
        },
        {
            Isa.PORTABLE: _X86_DOT,
            Isa.AVX2: _X86_DOT,
            Isa.AVX512: _X86_DOT,
            Isa.AMX: _X86_DOT,
            Isa.NEON: _ARM_DOT,
            Isa.DOTPROD: _ARM_DOT,
            Isa.I8MM: _ARM_PAIRS,
        },
    ),
    MicroKernel(
        "gemv_wna8",
        "qc_gemv_wna8.h",
        {
            Isa.PORTABLE: "c/runtime/qc_gemv_wna8_portable.c",
            Isa.AVX2: "x86/qc_gemv_wna8_avx2.c",
            Isa.NEON: "arm/qc_gemv_wna8_neon.c",
        },
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

GEMV_ROWS = 3
"""Rows up to which each is computed alone by kernels that unpack codes too."""
_GEMV_PLANES = {Isa.AVX2: 1, Isa.NEON: 2, Isa.DOTPROD: 1, Isa.I8MM: 1}


def gemv_planes(isa: Isa) -> int:
    """Bit planes up to which tables are faster than unpacking and multiplying; 0 where they never are."""
    return _GEMV_PLANES.get(isa, 0)
