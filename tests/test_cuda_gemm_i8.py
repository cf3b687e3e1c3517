"""The integer matrix product for tensor cores: every instance equals its meaning bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.reference import dense
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of

NAMES = [instance.name for instance in KERNELS["gemm_i8"].instances]


def case(rows: int, columns: int, depth: int, seed: int, per_row: bool = True, bias: bool = True) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "input": aligned(rng.integers(-128, 128, (rows, depth), dtype=np.int8)),
        "weight": aligned(rng.integers(-128, 128, (columns, depth), dtype=np.int8)),
        "input_scale": rng.uniform(0.001, 0.1, rows if per_row else 1).astype(np.float32),
        "weight_scale": rng.uniform(0.001, 0.1, columns if per_row else 1).astype(np.float32),
        "bias": rng.normal(size=columns).astype(np.float32) if bias else None,
        "rows": rows,
        "columns": columns,
        "depth": depth,
        "input_scales": int(per_row),
        "weight_scales": int(per_row),
    }


def meaning(case: dict) -> np.ndarray:
    x, w = (torch.from_numpy(case[name].astype(np.float32)) for name in ("input", "weight"))
    sx = torch.from_numpy(case["input_scale"])
    bias = None if case["bias"] is None else torch.from_numpy(case["bias"])
    parts = [x, sx[:, None] if case["input_scales"] else sx, None], [w, torch.from_numpy(case["weight_scale"]), None]
    return dense.linear(*parts, bias, op="aten.linear").numpy()


def result(name: str, case: dict) -> np.ndarray:
    kind = np.float16 if "_f16_" in name else np.float32
    out = aligned(np.full((case["rows"], case["columns"]), np.nan, kind))
    run_instance("gemm_i8", name, {**case, "out": out}, ("out",))
    return out


@pytest.mark.parametrize("name", NAMES)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    chunks=st.integers(1, 20),
    per_row=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=8)
def test_equals_meaning(name: str, rows: int, columns: int, chunks: int, per_row: bool, bias: bool, seed: int) -> None:
    given_case = case(rows, columns, 16 * chunks, seed, per_row, bias)
    found = result(name, given_case)
    np.testing.assert_array_equal(found, meaning(given_case).astype(found.dtype))


@pytest.mark.parametrize("name", NAMES)
def test_shared_memory_has_no_bank_conflicts(name: str) -> None:
    given_case = case(128, 128, 256, 1)
    kind = np.float16 if "_f16_" in name else np.float32
    traffic = traffic_of("gemm_i8", name, {**given_case, "out": aligned(np.zeros((128, 128), kind))})
    assert traffic.shared_wavefronts == traffic.shared_ideal
    assert traffic.mma_s8 == 128 // 16 * (128 // 8) * (256 // 32)


def test_touches_nothing_outside() -> None:
    given_case = case(37, 45, 80, 3)
    out = np.zeros((37, 45), np.float32)
    found = run_sanitized("gemm_i8", "qc_gemm_i8_f32_64x64", {**given_case, "out": out}, ("out",))
    np.testing.assert_array_equal(found["out"], meaning(given_case))
