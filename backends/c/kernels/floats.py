"""Kernels of float activations. Most are written once, over sixteen lanes that every level has in its own registers."""

from __future__ import annotations

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels.row import Blocked, MicroKernel

FLOAT_LAYOUT = Blocked(16, 1)
"""Sixteen outputs side by side, input after input."""


def portable(name: str) -> MicroKernel:
    """A kernel that is written once, and compiled for every level."""
    return MicroKernel(name, f"qc_{name}.h", {Isa.PORTABLE: f"c/runtime/qc_{name}_portable.c"})


ROWS = (
    MicroKernel(
        "gemm_f32",
        "qc_gemm_f32.h",
        {Isa.PORTABLE: "c/runtime/qc_gemm_f32_portable.c", Isa.NEON: "arm/qc_gemm_f32_neon.c"},
        {Isa.PORTABLE: FLOAT_LAYOUT, Isa.NEON: FLOAT_LAYOUT},
    ),
    portable("pack_f32"),
    portable("depthwise_f32"),
    portable("softmax"),
    portable("norm"),
    portable("group_norm"),
    portable("attention"),
    portable("rotary"),
    portable("hadamard"),
    portable("pool_f32"),
)
