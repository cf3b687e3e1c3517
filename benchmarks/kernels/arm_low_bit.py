"""Kernels with weights of few bits for ARM, as entries of the table of instruction counts."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.kernels.arm_count import Entry, Shape
from qcompiler.backends.c.gemv_packing import PANEL, places
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
    weight = random.integers(0, 1 << bits, (columns, depth), dtype=np.uint8)
    scale = random.uniform(1e-3, 1e-2, (columns, blocks)).astype(np.float32)
    case: Case = {
        **_shared(random, block, rows, columns, depth),
        "weight": words(weight, bits, layout, block),
        "scale": by_block(scale, layout.columns),
        "common_zero": middle,
        "bits": bits,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
    }
    return case, -(-columns // layout.columns)


def looked_up(planes: int, block: int, rows: int, columns: int, depth: int) -> tuple[Case, int]:
    """The same by tables, which are made once; one plane is signs."""
    random = np.random.default_rng(0)
    weight = random.integers(0, 1 << planes, (columns, depth), dtype=np.uint8)
    scale = random.uniform(1e-3, 1e-2, (columns, -(-depth // block))).astype(np.float32)
    case: Case = {
        **_shared(random, block, rows, columns, depth),
        "weight": places(weight, planes, block),
        "scale": by_block(scale, PANEL),
        "common_zero": 1 << (planes - 1),
        "planes": planes,
        "step": 1,
    }
    return case, -(-columns // PANEL)


def _shared(random: np.random.Generator, block: int, rows: int, columns: int, depth: int) -> Case:
    codes = random.integers(-127, 128, (rows, depth), dtype=np.int8)
    sums = np.add.reduceat(codes.astype(np.int32), np.arange(0, depth, block), axis=1)
    return {
        "input": codes,
        "input_stride": depth,
        "input_scale": np.ones((rows, -(-depth // block)), dtype=np.float32),
        "input_sum": np.ascontiguousarray(sums, dtype=np.int32),
        "rows": rows,
        "columns": columns,
        "depth": depth,
        "block": block,
        "out": np.zeros((rows, columns), dtype=np.float32),
        "out_stride": columns,
    }


def _scales(block: int) -> str:
    return "a scale per row" if block == WHOLE else f"blocks of {block}"


def _many(isa: Isa, bits: Bits, block: int, loop: tuple[int, int]) -> Entry:
    product_of, macs, bound = ("smmla", 32, 25.6) if isa is Isa.I8MM else ("sdot", 16, 12.8)
    title = f"W{bits}A8 {product_of} 8x8, {_scales(block)}"
    return Entry("gemm_wna8", isa, title, product_of, macs, bound, partial(product, isa, bits, block), loop=loop)


def _table(planes: int, block: int, loop: tuple[int, int]) -> Entry:
    """A look-up is four MAC of one bit, by two tables."""
    make, title = partial(looked_up, planes, block), f"W{planes}A8 tbl 1x32, {_scales(block)}"
    small, macs, bound = (1, 64, 1152), 32 / planes, 10.24 / planes
    return Entry("gemv_wna8", Isa.NEON, title, "tbl", macs, bound, make, layer=ONE_ROW, small=small, loop=loop)


def _one(isa: Isa, bits: Bits, bound: float, loop: tuple[int, int]) -> Entry:
    product_of, macs, wide = ("smull", 32, 16) if isa is Isa.NEON else ("sdot", 16, 32)
    make, title = partial(product, isa, bits, 128), f"W{bits}A8 {product_of} 1x{wide}, blocks of 128"
    return Entry("gemm_wna8", isa, title, product_of, macs, bound, make, layer=ONE_ROW, small=(1, 64, 1152), loop=loop)


ENTRIES = (
    _many(Isa.DOTPROD, 4, WHOLE, (80, 1024)),
    _many(Isa.DOTPROD, 4, 128, (80, 1024)),
    _many(Isa.DOTPROD, 2, WHOLE, (80, 1024)),
    _many(Isa.DOTPROD, 2, 128, (80, 1024)),
    _many(Isa.I8MM, 4, WHOLE, (84, 2048)),
    _many(Isa.I8MM, 4, 128, (84, 2048)),
    _many(Isa.I8MM, 2, WHOLE, (84, 2048)),
    _one(Isa.DOTPROD, 4, 6.7, (80, 512)),
    _one(Isa.DOTPROD, 2, 5.6, (98, 512)),
    _one(Isa.I8MM, 4, 6.7, (160, 1024)),
    _one(Isa.I8MM, 2, 5.6, (198, 1024)),
    _one(Isa.NEON, 2, 3.2, (95, 256)),
    _table(1, WHOLE, (105, 1024)),
    _table(1, 128, (105, 1024)),
    _table(2, WHOLE, (105, 512)),
    _table(2, 128, (105, 512)),
)
"""Bounds: products, loads and, for one row, unpacking; what blocks take at their ends is not in them, nor is unpacking
once for all rows."""
