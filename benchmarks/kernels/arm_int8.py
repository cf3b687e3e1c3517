"""8-bit kernels for ARM, as entries of the table of instruction counts."""

from __future__ import annotations

import numpy as np

from benchmarks.kernels.arm_count import Entry
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.packing import blocked
from tests.c_harness import Case


def product(isa: Isa, rows: int, columns: int, depth: int) -> tuple[Case, int]:
    """A linear layer, codes to codes."""
    random = np.random.default_rng(0)
    layout = MICRO_KERNELS["gemm_i8"].layout(isa)
    codes = random.integers(-128, 128, (columns, 1, depth), dtype=np.int8)
    case: Case = {
        "input": random.integers(-128, 128, (rows, depth), dtype=np.int8),
        "width": rows,
        "inner_stride": depth,
        "weight": blocked(codes, layout),
        "columns": columns,
        "taps": 1,
        "depth": depth,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "out": np.zeros((rows, columns), dtype=np.int8),
        "out_stride": columns,
        "epilogue.finish": 0,
        "epilogue.bias": random.integers(-(2**16), 2**16, columns, dtype=np.int32),
        "epilogue.factor": np.full(columns, 1e-4, dtype=np.float32),
        "epilogue.zero_point": 3.0,
        "epilogue.low": -128.0,
        "epilogue.high": 127.0,
    }
    return case, rows


ENTRIES = (
    Entry("gemm_i8", Isa.NEON, "int8 smull 4x4", "smull", 8, 3.66, lambda *shape: product(Isa.NEON, *shape)),
    Entry("gemm_i8", Isa.DOTPROD, "int8 sdot 8x8", "sdot", 16, 14.2, lambda *shape: product(Isa.DOTPROD, *shape)),
    Entry("gemm_i8", Isa.I8MM, "int8 smmla 8x8", "smmla", 32, 25.6, lambda *shape: product(Isa.I8MM, *shape)),
)
"""Bounds: what multiplies, and its loads in pairs. Without sdot every product is added to 32 bits at once, since two of
-128 by -128 leave 16 bits: 64 instructions and 6 loads for 256 MAC."""
