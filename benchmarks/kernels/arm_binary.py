"""Kernels of signs and bit planes for ARM, as entries of the table of instruction counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.kernels.arm_count import Entry
from qcompiler.backends.c.binary_packing import bit_rows, packed_planes, packed_signs
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from tests.c_harness import Case

TAPS = 9
PLANES = 2
_REALS = 1


def signs_to_signs(rows: int, columns: int, depth: int) -> tuple[Case, int]:
    """A convolution of a 3x3 window over an image inside its border."""
    case = _convolution(rows, columns, depth)
    case |= {"threshold": np.zeros(columns, np.int32), "flip": np.zeros(columns // 8, np.uint8)}
    case |= {"out": np.zeros((rows, columns // 8), np.uint8), "out_stride": columns // 8}
    return case, rows  # pyright: ignore[reportReturnType]


def signs_to_floats(rows: int, columns: int, depth: int) -> tuple[Case, int]:
    """The same convolution, its sums scaled."""
    case = _convolution(rows, columns, depth)
    case |= {"out": np.zeros((rows, columns), np.float32), "out_stride": columns, "epilogue.finish": _REALS}
    case |= {"epilogue.bias": np.zeros(columns, np.int32), "epilogue.factor": np.ones(columns, np.float32)}
    return case, rows  # pyright: ignore[reportReturnType]


def planes(rows: int, columns: int, depth: int) -> tuple[Case, int]:
    """A linear layer of two bits by two bits."""
    random, layout = np.random.default_rng(0), MICRO_KERNELS["gemm_bits"].layout(Isa.NEON)
    bits = bit_rows(random.integers(0, 2, (PLANES, rows, depth)))
    case: Case = {
        "input": bits,
        "plane_stride": bits[0].nbytes,
        "width": rows,
        "inner_stride": bits.shape[-1],
        "weight": packed_planes(random.integers(0, 2, (PLANES, columns, 1, depth), dtype=np.uint8), layout),
        "columns": columns,
        "taps": 1,
        "depth": depth,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "input_planes": PLANES,
        "weight_planes": PLANES,
        "weight_sum": np.zeros(columns, np.int32),
        **{f"{side}_factor[{plane}]": 1 + plane for side in ("input", "weight") for plane in range(PLANES)},
        "out": np.zeros((rows, columns), np.float32),
        "out_stride": columns,
        "epilogue.finish": _REALS,
        "epilogue.bias": np.zeros(columns, np.int32),
        "epilogue.factor": np.ones(columns, np.float32),
    }
    return case, rows


def _convolution(rows: int, columns: int, depth: int) -> dict[str, object]:
    random, layout = np.random.default_rng(0), MICRO_KERNELS["gemm_b1"].layout(Isa.NEON)
    width, channels = int(rows**0.5), depth // TAPS
    line = (width + 2) * channels // 8
    return {
        "input": random.integers(0, 256, (width + 2, line), dtype=np.uint8),
        "width": width,
        "inner_stride": channels // 8,
        "outer_stride": line,
        "offsets": np.array([y * line + x * channels // 8 for y in range(3) for x in range(3)], np.int32),
        "weight": packed_signs(random.integers(0, 2, (columns, TAPS, channels), dtype=np.uint8), layout),
        "columns": columns,
        "taps": TAPS,
        "depth": channels,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
    }


def _entry(kernel: str, title: str, planes: int, case: Callable[[int, int, int], tuple[Case, int]]) -> Entry:
    """The bound: 16 each of eor, cnt and uadalp, and 8 loads in pairs, for 2048 MAC of signs."""
    return Entry(
        kernel=kernel,
        isa=Isa.NEON,
        title=title,
        product="cnt",
        macs=128 // planes,
        bound=39.4 / planes,
        case=case,
        loop=(54, 2048 // planes),
    )


ENTRIES = (
    _entry("gemm_b1", "signs 4x4 to signs", 1, signs_to_signs),
    _entry("gemm_b1", "signs 4x4 to floats", 1, signs_to_floats),
    _entry("gemm_bits", "2 by 2 bits", PLANES**2, planes),
)
