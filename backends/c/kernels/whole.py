"""Kernels from codes to codes without a float between, and tables of any function of one code."""

from __future__ import annotations

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels.floats import portable
from qcompiler.backends.c.kernels.row import MicroKernel

ROWS = (
    portable("softmax_i8"),
    portable("norm_i8"),
    portable("matmul_i8"),
    MicroKernel(
        "lookup",
        "qc_lookup.h",
        {
            Isa.PORTABLE: "c/runtime/qc_lookup_portable.c",
            Isa.AVX512: "x86/qc_lookup_avx512.c",
            Isa.NEON: "arm/qc_lookup_neon.c",
        },
    ),
)
