"""Integer matrix products and convolutions."""

from __future__ import annotations

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels.row import Blocked, MicroKernel

X86_LAYOUT = Blocked(16, 4)
"""Sixteen outputs, four inputs of each: one operand of vpdpbusd, one row of an AMX tile."""

ROWS = (
    MicroKernel(
        "gemm_i8",
        "qc_gemm_i8.h",
        {Isa.PORTABLE: "c/runtime/qc_gemm_i8_portable.c"},
        {Isa.PORTABLE: Blocked(1, 1), Isa.AVX2: X86_LAYOUT, Isa.AVX512: X86_LAYOUT, Isa.AMX: X86_LAYOUT},
    ),
)
