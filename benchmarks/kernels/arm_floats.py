"""Float kernels for ARM, as entries of the table of instruction counts."""

from __future__ import annotations

import numpy as np

from benchmarks.kernels.arm_count import Entry
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.packing import blocked
from tests.c_harness import Case


def product(rows: int, columns: int, depth: int) -> tuple[Case, int]:
    """A linear layer."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((columns, 1, depth)).astype(np.float32)
    case: Case = {
        "input": random.standard_normal((rows, depth)).astype(np.float32),
        "width": rows,
        "inner_stride": depth,
        "weight": blocked(weight, MICRO_KERNELS["gemm_f32"].layout(Isa.NEON)),
        "columns": columns,
        "taps": 1,
        "depth": depth,
        "bias": np.zeros(columns, dtype=np.float32),
        "out": np.zeros((rows, columns), dtype=np.float32),
        "out_stride": columns,
        "low": -np.inf,
        "high": np.inf,
    }
    return case, rows


ENTRIES = (Entry("gemm_f32", Isa.NEON, "fp32 fmla 4x16", "fmla", 4, 3.6, product, loop=(79, 256)),)
"""The bound: 16 fmla and 4 loads in pairs for 64 MAC."""
