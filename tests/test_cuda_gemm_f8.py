"""Products of e4m3 on tensor cores: within the bound of float32 sums of what float64 gives."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.arch import ARCHITECTURES
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.float8 import choose_f8
from tests.cuda_harness import aligned, run_instance, traffic_of
from tests.cuda_products import F16, F32, Parts, finish_arguments, room

NAMES = [instance.name for instance in KERNELS["gemm_f8"].instances]


def case(rows: int, columns: int, depth: int, seed: int, parts: Parts) -> dict:
    rng = np.random.default_rng(seed)
    x, w = (rng.normal(size=(count, depth)).astype(ml_dtypes.float8_e4m3fn) for count in (rows, columns))
    args = finish_arguments(parts, x.view(np.uint8), w.view(np.uint8), seed)
    padding = ((0, 0), (0, -depth % 16))
    codes = {
        "input": aligned(np.pad(x.view(np.uint8), padding)),
        "weight": aligned(np.pad(w.view(np.uint8), padding)),
    }
    return {
        "x": x.astype(np.float64),
        "w": w.astype(np.float64),
        **args,
        **codes,
        "out": room(rows, columns, parts.kind),
    }


@pytest.mark.parametrize("name", NAMES)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    depth=st.integers(1, 400),
    parts=st.builds(Parts, st.sampled_from([F32, F16]), st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=2)
def test_is_near_the_exact_product(name: str, rows: int, columns: int, depth: int, parts: Parts, seed: int) -> None:
    args = case(rows, columns, depth, seed, parts)
    run_instance("gemm_f8", name, {key: value for key, value in args.items() if key not in ("x", "w")}, ("out",))
    scale = args["input_scale"][:, None].astype(np.float64) * args["weight_scale"]
    bias = args.get("bias", np.zeros(columns, np.float32))
    exact = (args["x"] @ args["w"].T) * scale + bias
    size = (np.abs(args["x"]) @ np.abs(args["w"]).T) * scale + np.abs(bias)
    rounding = np.maximum(2.0**-11 * np.abs(exact), 2.0**-25) if parts.kind == F16 else 0
    assert (np.abs(args["out"] - exact) <= rounding + (depth / 32 + 8) * 2.0**-24 * size).all()


@pytest.mark.parametrize("name", NAMES)
def test_shared_memory_has_no_bank_conflicts(name: str) -> None:
    args = case(128, 128, 256, 1, Parts())
    traffic = traffic_of("gemm_f8", name, {key: value for key, value in args.items() if key not in ("x", "w")})
    assert traffic.shared_wavefronts == traffic.shared_ideal
    assert traffic.mma_e4m3 == 128 // 16 * (128 // 8) * (256 // 32)


def test_choices_exist_on_their_architecture() -> None:
    for target in ARCHITECTURES.values():
        if target.fp8:
            assert choose_f8(300, 512, 512, target).instance in {one.name for one in KERNELS["gemm_f8"].on(target)}
