"""The integer matrix product of generated C, on every level, equals its meaning element for element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.packing import blocked, unblocked
from qcompiler.backends.reference.arithmetic import fused_multiply_add
from tests.c_harness import Case, Value, run_kernel
from tests.c_int8 import CODES, FINISHES, INT32, act_dtype, finished, make_epilogue, out_dtype

KERNEL = MICRO_KERNELS["gemm_i8"]


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
    width, inner, outer = (int(number) for number in random.integers(1, (rows + 2, depth + 3, 40 * depth)))
    offsets = random.integers(0, 3 * depth, taps, dtype=np.int32)
    starts = np.arange(rows) // width * outer + np.arange(rows) % width * inner
    places = starts[:, None] + offsets
    pixels = random.integers(info.min, info.max + 1, int(places.max()) + depth, dtype=act_dtype(isa))
    weight = random.integers(-128, 128, (columns, taps, depth), dtype=np.int8)
    wide = -(-columns // layout.columns) * layout.columns
    inputs = pixels[places[..., None] + np.arange(depth)].astype(np.int64)
    sums = np.einsum("mtk,ntk->mn", inputs, weight.astype(np.int64))
    case: dict[str, Value] = {
        "input": pixels,
        "width": width,
        "inner_stride": inner,
        "outer_stride": outer,
        "offsets": offsets,
        "weight": blocked(weight, layout),
        "columns": columns,
        "taps": taps,
        "depth": depth,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "out": np.zeros((rows, columns), out_dtype(isa, finish)),
        "out_stride": columns,
        **make_epilogue(isa, finish, rows, wide, random, seed % 2 == 1),
    }
    return case, sums


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@given(shape=shapes(), finish=st.sampled_from(FINISHES), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_equals_its_meaning(isa: Isa, shape: tuple[int, int, int, int], finish: int, seed: int) -> None:
    case, sums = make_case(isa, shape, finish, seed)
    (found,) = run_kernel("gemm_i8", isa, [case], [(0, shape[0])])
    np.testing.assert_array_equal(found, finished(case, sums))


def added(case: Case, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Codes and those that are added to them, as `qc_residual` says."""

    def number(name: str) -> torch.Tensor:
        return torch.tensor(float(case[f"epilogue.residual.{name}"]))  # pyright: ignore[reportArgumentType]

    q, r = torch.from_numpy(own).float() - number("own_shift"), torch.from_numpy(other).float() - number("shift")
    pairs = [(q, number("own")), (r, number("factor"))]
    (outer, a), (inner, b) = reversed(pairs) if case["epilogue.residual.leads"] else pairs
    steps = fused_multiply_add(outer, a, fused_multiply_add(inner, b, number("constant")))
    return (steps.round() + number("result_shift")).clamp(number("low"), number("high")).numpy()


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@given(shape=shapes(), leads=st.integers(0, 1), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_codes_are_added_before_any_is_stored(
    isa: Isa, shape: tuple[int, int, int, int], leads: int, seed: int
) -> None:
    case, sums = make_case(isa, shape, CODES, 2 * seed)
    random, info = np.random.default_rng(seed), np.iinfo(act_dtype(isa))
    stride = shape[1] + seed % 3
    other = random.integers(info.min, info.max + 1, (shape[0], stride), dtype=act_dtype(isa))
    residual: Case = {
        "codes": other,
        "stride": stride,
        "leads": leads,
        "own": 0.7,
        "factor": 1.1,
        "constant": -13.25,
        "own_shift": float(seed % 2 * 128),
        "shift": float(info.min),
        "result_shift": float(info.min + 7),
        "low": float(info.min + 9),
        "high": float(info.max - 20),
    }
    case = {**case, **{f"epilogue.residual.{name}": value for name, value in residual.items()}}
    (found,) = run_kernel("gemm_i8", isa, [case], [(0, shape[0])])
    np.testing.assert_array_equal(found, added(case, finished(case, sums), other[:, : shape[1]]))


@given(shape=shapes(), columns=st.integers(1, 9), depth=st.integers(1, 9))
@settings(deadline=None, max_examples=25)
def test_packing_is_a_permutation_with_zeros(shape: tuple[int, int, int, int], columns: int, depth: int) -> None:
    layout = type(KERNEL.layout(Isa.PORTABLE))(columns, depth)
    codes = np.random.default_rng(0).integers(-128, 128, shape[1:], dtype=np.int8)
    packed = blocked(codes, layout)
    np.testing.assert_array_equal(unblocked(packed, layout, codes.shape), codes)
    assert np.count_nonzero(packed) == np.count_nonzero(codes)


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@pytest.mark.parametrize(("channels", "size", "stride"), [(3, 3, 2), (3, 7, 2), (16, 3, 1)])
def test_rows_of_a_window_are_taps(isa: Isa, channels: int, size: int, stride: int) -> None:
    columns, height, width = 24, 11, 13
    random = np.random.default_rng(size)
    info = np.iinfo(act_dtype(isa))
    image = random.integers(info.min, info.max + 1, (height, width, channels), dtype=act_dtype(isa))
    weight = random.integers(-128, 128, (columns, size, size, channels), dtype=np.int8)
    given = torch.from_numpy(image).double().permute(2, 0, 1)[None]
    sums = torch.conv2d(given, torch.from_numpy(weight).double().permute(0, 3, 1, 2), None, stride)[0]
    rows = sums[0].numel()
    case, _ = make_case(isa, (rows, columns, size, size * channels), INT32, 0)
    changed: Case = {
        **case,
        "input": image,
        "width": sums.shape[2],
        "inner_stride": stride * channels,
        "outer_stride": stride * width * channels,
        "offsets": np.arange(size, dtype=np.int32) * (width * channels),
        "weight": blocked(weight.reshape(columns, size, -1), KERNEL.layout(isa)),
    }
    (found,) = run_kernel("gemm_i8", isa, [changed], [(0, rows)])
    expected = sums.permute(1, 2, 0).reshape(rows, columns).numpy().astype(np.int64)
    np.testing.assert_array_equal(found, finished(changed, expected))


@pytest.mark.parametrize("isa", [Isa.PORTABLE, Isa.AVX512, Isa.AMX], ids=lambda isa: isa.value)
def test_stays_inside_its_memory(isa: Isa) -> None:
    shapes = ((1, 17, 1, 5), (3, 70, 3, 30), (37, 33, 2, 67), (50, 5, 1, 1))
    pairs = [make_case(isa, shape, CODES, 1) for shape in shapes]
    tasks = [(0, sums.shape[0]) for _, sums in pairs]
    results = run_kernel("gemm_i8", isa, [case for case, _ in pairs], tasks, sanitize=True)
    for (case, sums), found in zip(pairs, results, strict=True):
        np.testing.assert_array_equal(found, finished(case, sums))


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
def test_a_share_of_the_rows_of_a_large_product(isa: Isa) -> None:
    case, sums = make_case(isa, (45, 150, 9, 200), INT32, 0)
    (found,) = run_kernel("gemm_i8", isa, [case], [(2, 41)])
    wanted = np.zeros_like(found)
    wanted[2:41] = finished(case, sums)[2:41]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
def test_more_weights_than_caches_hold_of_them(isa: Isa) -> None:
    case, sums = make_case(isa, (29, 620, 1, 900), INT32, 0)
    (found,) = run_kernel("gemm_i8", isa, [case], [(0, 29)])
    np.testing.assert_array_equal(found, finished(case, sums))


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
def test_the_largest_products_fit(isa: Isa) -> None:
    rows, columns, depth = 9, 17, 100
    case, _ = make_case(isa, (rows, columns, 1, depth), INT32, 0)
    info = np.iinfo(act_dtype(isa))
    largest = info.max if info.min == 0 else info.min
    weight = np.full((columns, 1, depth), -128, dtype=np.int8)
    changed = {
        **case,
        "input": np.full_like(np.asarray(case["input"]), largest),
        "weight": blocked(weight, KERNEL.layout(isa)),
    }
    (found,) = run_kernel("gemm_i8", isa, [changed], [(0, rows)])
    np.testing.assert_array_equal(found, finished(changed, np.full((rows, columns), largest * -128 * depth)))
