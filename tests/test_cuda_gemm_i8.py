"""The integer matrix product for tensor cores: every instance equals its meaning bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.arch import ARCHITECTURES
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.integers import choose_i8
from qcompiler.backends.reference import dense
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of
from tests.cuda_products import F16, F32, I8, PARTS, Parts, finish_arguments, finished, room

NAMES = [instance.name for instance in KERNELS["gemm_i8"].instances]
PLAIN = Parts()
SMALL = "qc_gemm_i8_64x64x64"


def case(rows: int, columns: int, depth: int, seed: int, parts: Parts = PLAIN) -> dict:
    rng = np.random.default_rng(seed)
    x = aligned(rng.integers(-128, 128, (rows, depth), dtype=np.int8))
    w = aligned(rng.integers(-128, 128, (columns, depth), dtype=np.int8))
    return {"input": x, "weight": w, **finish_arguments(parts, x, w, seed), "out": room(rows, columns, parts.kind)}


def sums(args: dict) -> np.ndarray:
    return (args["input"].astype(np.float64) @ args["weight"].astype(np.float64).T).astype(np.int64)


@pytest.mark.parametrize("name", NAMES)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    chunks=st.integers(1, 20),
    parts=PARTS,
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=3)
def test_equals_meaning(name: str, rows: int, columns: int, chunks: int, parts: Parts, seed: int) -> None:
    args = case(rows, columns, 16 * chunks, seed, parts)
    run_instance("gemm_i8", name, args, ("out",))
    np.testing.assert_array_equal(args["out"], finished(sums(args), args))


def test_equals_the_reference_of_a_linear_layer() -> None:
    args = case(50, 40, 96, 1, Parts(bias=True))
    run_instance("gemm_i8", SMALL, args, ("out",))
    x, w = (torch.from_numpy(args[name].astype(np.float32)) for name in ("input", "weight"))
    scales = (torch.from_numpy(args[name]) for name in ("input_scale", "weight_scale"))
    parts = [x, next(scales)[:, None], None], [w, next(scales), None]
    found = dense.linear(*parts, torch.from_numpy(args["bias"]), op="aten.linear")
    np.testing.assert_array_equal(args["out"], found.numpy())


def test_equals_the_reference_of_a_static_layer() -> None:
    args = case(50, 40, 96, 2, Parts(I8, total_bias=True))
    x, w = (torch.from_numpy(args[name].astype(np.float32)) for name in ("input", "weight"))
    scales = torch.from_numpy(args["weight_scale"])
    bias = [torch.from_numpy(args["total_bias"].astype(np.float32)), scales, None]
    result = [torch.tensor(0.5), torch.tensor(5.0)]
    found = dense.linear(
        [x, torch.tensor(0.02), torch.tensor(3.0)],
        [w, scales, None],
        bias,
        op="aten.linear",
        result=result,
        low=-100,
        high=90,
    )
    folded = args["total_bias"] - 3 * args["weight"].sum(1, dtype=np.int32)
    factor = (np.float32(0.02) * args["weight_scale"]) / np.float32(0.5)
    run_instance(
        "gemm_i8", SMALL, {**args, "input_scale": None, "weight_scale": factor, "total_bias": folded}, ("out",)
    )
    np.testing.assert_array_equal(args["out"], found.numpy())


@pytest.mark.parametrize(("rows", "columns", "depth", "splits"), [(70, 130, 1024, 3), (5, 9, 512, 8), (20, 20, 64, 4)])
def test_blocks_share_tiles(rows: int, columns: int, depth: int, splits: int) -> None:
    args = case(rows, columns, depth, 3, Parts(F16))
    tiles = -(-rows // 64) * -(-columns // 64)
    shared = {
        "splits": splits,
        "workspace": aligned(np.full(tiles * splits * 64 * 64, -7, np.int32)),
        "counters": np.zeros(tiles, np.int32),
    }
    run_instance("gemm_i8", SMALL, {**args, **shared}, ("out", "counters"))
    np.testing.assert_array_equal(args["out"], finished(sums(args), args))
    assert not shared["counters"].any()


@pytest.mark.parametrize("name", NAMES)
def test_shared_memory_has_no_bank_conflicts(name: str) -> None:
    args = case(128, 256, 256, 1)
    traffic = traffic_of("gemm_i8", name, args)
    assert traffic.shared_wavefronts == traffic.shared_ideal
    assert traffic.global_sectors == traffic.global_ideal
    assert traffic.mma_s8 == 128 // 16 * (256 // 8) * (256 // 32)


def test_touches_nothing_outside() -> None:
    args = case(37, 45, 80, 3, Parts(F32, True, True, True, True, True, True, True))
    found = run_sanitized("gemm_i8", SMALL, args, ("out",))
    np.testing.assert_array_equal(found["out"], finished(sums(args), args))


@pytest.mark.parametrize(
    ("shape", "capability", "tile"),
    [((4096, 4096, 4096), 90, "128x256x128"), ((16, 4096, 4096), 90, "16x"), ((4096, 4096, 4096), 75, "128x128x64")],
)
def test_choice_of_tiles(shape: tuple[int, int, int], capability: int, tile: str) -> None:
    choice = choose_i8(*shape, ARCHITECTURES[capability])
    assert choice.instance.startswith(f"qc_gemm_i8_{tile}")
    assert choice.instance in {one.name for one in KERNELS["gemm_i8"].on(ARCHITECTURES[capability])}
