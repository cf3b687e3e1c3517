"""The integer matrix product of generated C, on every level, equals its meaning element for element."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.packing import blocked, unblocked
from tests.c_harness import Case, Offsets, run_kernel

KERNEL = MICRO_KERNELS["gemm_i8"]
CODES, REALS, REALS_BIASED, CODES_BIASED, INT32 = range(5)


def act_dtype(isa: Isa) -> type:
    return np.uint8 if isa in (Isa.PORTABLE, Isa.AVX2, Isa.AVX512, Isa.AMX) else np.int8


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    return (
        draw(st.integers(1, 40)),
        draw(st.integers(1, 70)),
        draw(st.sampled_from([1, 1, 3, 9])),
        draw(st.integers(1, 90)),
    )


def make_case(isa: Isa, shape: tuple[int, int, int, int], finish: int, seed: int) -> tuple[Case, np.ndarray]:
    """Arguments and the integer sums that are expected."""
    rows, columns, taps, depth = shape
    random = np.random.default_rng(seed)
    info = np.iinfo(act_dtype(isa))
    layout = KERNEL.layout(isa)
    pixels = random.integers(info.min, info.max + 1, (rows + 3, depth), dtype=act_dtype(isa))
    weight = random.integers(-128, 128, (columns, taps, depth), dtype=np.int8)
    picked = random.integers(0, rows + 3, (rows, taps))
    wide = -(-columns // layout.columns) * layout.columns
    bias = random.integers(-(2**20), 2**20, wide, dtype=np.int32)
    inputs = pixels[picked].astype(np.int64)
    sums = np.einsum("mtk,ntk->mn", inputs, weight.astype(np.int64)) + bias[:columns]
    out = np.zeros((rows, columns), {CODES: act_dtype(isa), CODES_BIASED: act_dtype(isa), INT32: np.int32}.get(finish, np.float32))
    case: dict[str, object] = {
        "input": pixels,
        "rows": Offsets("input", picked.reshape(-1) * depth),
        "weight": blocked(weight, layout),
        "columns": columns,
        "taps": taps,
        "depth": depth,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "out": out,
        "out_stride": columns,
        "epilogue.finish": finish,
        "epilogue.bias": bias,
        "epilogue.factor": (random.random(wide) * 1e-3).astype(np.float32),
        "epilogue.float_bias": random.standard_normal(wide).astype(np.float32),
        "epilogue.zero_point": 3.0,
        "epilogue.low": float(max(info.min, -100)),
        "epilogue.high": float(info.max),
        "epilogue.scale": 0.25,
    }
    return case, sums  # pyright: ignore[reportReturnType]


def expected(case: Case, sums: np.ndarray) -> np.ndarray:
    finish, columns = case["epilogue.finish"], sums.shape[1]
    if finish == INT32:
        return sums.astype(np.int32)
    factor, bias = (np.asarray(case[f"epilogue.{name}"])[:columns] for name in ("factor", "float_bias"))
    reals = sums.astype(np.float32) * factor
    if finish == REALS:
        return reals
    if finish == REALS_BIASED:
        return reals + bias
    steps = (reals + bias) / np.float32(case["epilogue.scale"]) if finish == CODES_BIASED else reals  # pyright: ignore[reportArgumentType]
    codes = np.round(steps) + np.float32(case["epilogue.zero_point"])  # pyright: ignore[reportArgumentType]
    return np.clip(codes, case["epilogue.low"], case["epilogue.high"])  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@given(shape=shapes(), finish=st.sampled_from([CODES, REALS, REALS_BIASED, CODES_BIASED, INT32]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_equals_its_meaning(isa: Isa, shape: tuple[int, int, int, int], finish: int, seed: int) -> None:
    case, sums = make_case(isa, shape, finish, seed)
    (found,) = run_kernel("gemm_i8", isa, [case], [(0, shape[0])])
    np.testing.assert_array_equal(found, expected(case, sums))


@given(shape=shapes(), columns=st.integers(1, 9), depth=st.integers(1, 9))
@settings(deadline=None, max_examples=25)
def test_packing_is_a_permutation_with_zeros(shape: tuple[int, int, int, int], columns: int, depth: int) -> None:
    layout = type(KERNEL.layout(Isa.PORTABLE))(columns, depth)
    codes = np.random.default_rng(0).integers(-128, 128, shape[1:], dtype=np.int8)
    packed = blocked(codes, layout)
    np.testing.assert_array_equal(unblocked(packed, layout, codes.shape), codes)
    assert np.count_nonzero(packed) == np.count_nonzero(codes)
