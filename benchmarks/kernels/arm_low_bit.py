"""Kernels with weights of few bits for ARM, as entries of the table of instruction counts."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.kernels.arm_count import Entry, Shape
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.low_bit_packing import Bits, by_block, words
from tests.c_harness import Case

WHOLE = 1152
"""A block of all inputs of the layer: one scale for a row of weights, one for a row of activations."""
ONE_ROW: Shape = (1, 1024, 1152)


def product(isa: Isa, bits: Bits, block: int, rows: int, columns: int, depth: int) -> tuple[Case, int]:
    """A linear layer with a scale for every block of inputs, on both sides; zero points in the middle."""
    random = np.random.default_rng(0)
    layout = MICRO_KERNELS["gemm_wna8"].layout(isa)
    blocks, middle = -(-depth // block), 1 << (bits - 1)
    codes = random.integers(-127, 128, (rows, depth), dtype=np.int8)
    sums = np.add.reduceat(codes.astype(np.int32), np.arange(0, depth, block), axis=1)
    weight = random.integers(0, 1 << bits, (columns, depth), dtype=np.uint8)
    scale = random.uniform(1e-3, 1e-2, (columns, blocks)).astype(np.float32)
    case: Case = {
        "input": codes,
        "input_stride": depth,
        "input_scale": np.ones((rows, blocks), dtype=np.float32),
        "input_sum": np.ascontiguousarray(sums, dtype=np.int32),
        "weight": words(weight, bits, layout, block),
        "scale": by_block(scale, layout.columns),
        "common_zero": middle,
        "rows": rows,
        "columns": columns,
        "depth": depth,
        "block": block,
        "bits": bits,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "out": np.zeros((rows, columns), dtype=np.float32),
        "out_stride": columns,
    }
    return case, -(-columns // layout.columns)


def _many(bits: Bits, block: int, loop: tuple[int, int]) -> Entry:
    title = f"W{bits}A8 sdot 8x8, " + ("a scale per row" if block == WHOLE else f"blocks of {block}")
    return Entry(
        "gemm_wna8", Isa.DOTPROD, title, "sdot", 16, 12.8, partial(product, Isa.DOTPROD, bits, block), loop=loop
    )


def _one(bits: Bits, bound: float, loop: tuple[int, int]) -> Entry:
    make, title = partial(product, Isa.DOTPROD, bits, 128), f"W{bits}A8 sdot 1x32, blocks of 128"
    small = (1, 64, 1152)
    return Entry("gemm_wna8", Isa.DOTPROD, title, "sdot", 16, bound, make, layer=ONE_ROW, small=small, loop=loop)


ENTRIES = (
    _many(4, WHOLE, (80, 1024)),
    _many(4, 128, (80, 1024)),
    _many(2, WHOLE, (80, 1024)),
    _many(2, 128, (80, 1024)),
    _one(4, 6.7, (80, 512)),
    _one(2, 5.6, (98, 512)),
)
"""Bounds: products, loads and, for one row, unpacking; what blocks take at their ends is not in them, nor is unpacking
once for all rows."""
