"""8-bit kernels for ARM, as entries of the table of instruction counts."""

from __future__ import annotations

from functools import partial
from math import isqrt

import numpy as np

from benchmarks.kernels.arm_count import Entry
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.packing import blocked, depthwise_taps
from tests.c_harness import Case, Value


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
        **_epilogue(random, columns),
    }
    return case, rows


def depthwise(isa: Isa, positions: int, channels: int, taps: int) -> tuple[Case, int]:
    """A depthwise convolution with a square window, codes to codes; rows of 28 positions."""
    random = np.random.default_rng(0)
    layout = MICRO_KERNELS["depthwise_i8"].layout(isa)
    width, side = 28, isqrt(taps)
    across = width + side - 1
    codes, places = depthwise_taps(random.integers(-128, 128, (channels, side, side), dtype=np.int8))
    case: Case = {
        "input": random.integers(-128, 128, (positions // width + side, across, channels), dtype=np.int8),
        "width": width,
        "inner_stride": channels,
        "outer_stride": across * channels,
        "offsets": np.array([(y * across + x) * channels for y, x in places], dtype=np.int32),
        "channels": channels,
        "taps": len(places),
        "weight": blocked(codes, layout),
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "out": np.zeros((positions, channels), dtype=np.int8),
        "out_stride": channels,
        **_epilogue(random, channels),
    }
    return case, positions


def _epilogue(random: np.random.Generator, columns: int) -> dict[str, Value]:
    return {
        "epilogue.finish": 0,
        "epilogue.bias": random.integers(-(2**16), 2**16, columns, dtype=np.int32),
        "epilogue.factor": np.full(columns, 1e-4, dtype=np.float32),
        "epilogue.zero_point": 3.0,
        "epilogue.low": -128.0,
        "epilogue.high": 127.0,
    }


def _product(isa: Isa, title: str, name: str, macs: int, bound: float, loop: tuple[int, int]) -> Entry:
    return Entry("gemm_i8", isa, title, name, macs, bound, partial(product, isa), loop=loop)


def _depthwise(isa: Isa, title: str, name: str, macs: int, bound: float, loop: tuple[int, int], taps: int) -> Entry:
    layer, small = (784, 96, taps), (56, 16, taps)
    make = partial(depthwise, isa)
    return Entry("depthwise_i8", isa, title, name, macs, bound, make, layer=layer, small=small, loop=loop)


ENTRIES = (
    _product(Isa.NEON, "int8 smull 4x4", "smull", 8, 3.66, (73, 256)),
    _product(Isa.DOTPROD, "int8 sdot 8x8", "sdot", 16, 14.2, (79, 1024)),
    _product(Isa.I8MM, "int8 smmla 8x8", "smmla", 32, 25.6, (44, 1024)),
    Entry(
        "gemm_i8",
        Isa.DOTPROD,
        "int8 sdot 1x8",
        "sdot",
        16,
        9.8,
        partial(product, Isa.DOTPROD),
        layer=(1, 1024, 1152),
        small=(1, 64, 1152),
        loop=(16, 128),
    ),
    _depthwise(Isa.NEON, "int8 smull 4x16 of 7x7", "smull", 8, 2.51, (58, 128), 49),
    _depthwise(Isa.DOTPROD, "int8 sdot 4x16 of 7x7", "sdot", 16, 3.66, (74, 256), 49),
    _depthwise(Isa.NEON, "int8 smull 1x16 of 3x3", "smull", 6, 2.48, (73, 144), 9),
    _depthwise(Isa.DOTPROD, "int8 sdot 1x16 of 3x3", "sdot", 12, 5.54, (38, 144), 9),
)
"""Bounds: what multiplies and what it needs, loads in pairs where they lie so. Without sdot every product is added to
32 bits at once, since two of -128 by -128 leave 16 bits: 64 instructions and 6 loads for 256 MAC. In windows of 3x3
every fourth product is one of the zeros that fill up a column; it is not counted as MAC."""
