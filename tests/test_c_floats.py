"""Products of floats in generated C have one order of operations, on every level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels.floats import FLOAT_LAYOUT
from qcompiler.backends.c.packing import blocked
from qcompiler.backends.reference.arithmetic import fused_multiply_add
from tests.c_harness import Case, run_kernel

LEVELS = (Isa.PORTABLE, Isa.AVX2, Isa.AVX512, Isa.NEON, Isa.NEON32)
Shape = tuple[int, int, int, int]
every_level = pytest.mark.parametrize("isa", LEVELS, ids=lambda isa: isa.value)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def chain(start: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply-adds one after the other along the first axis, each rounded once."""
    total = torch.from_numpy(start)
    for left, right in zip(torch.from_numpy(a), torch.from_numpy(b), strict=True):
        total = fused_multiply_add(left, right, total)
    return total.numpy()


shapes = st.tuples(
    st.integers(1, 20), st.integers(1, 90), st.sampled_from([1, 1, 3, 4]), st.integers(1, 21)
)  # rows, columns, taps, depth
wide_shapes = st.tuples(st.integers(1, 20), st.just(0), st.sampled_from([1, 4, 9]), st.integers(1, 150))


def windows(shape: Shape, seed: int) -> tuple[Case, np.ndarray]:
    """An image, how windows lie in it, and what they see: [rows, taps, depth]."""
    rows, _, taps, depth = shape
    random = np.random.default_rng(seed)
    width, inner, outer = (int(number) for number in random.integers(1, 6, 3))
    offsets = random.integers(0, 30, taps).astype(np.int32)
    starts = np.arange(rows) // width * outer + np.arange(rows) % width * inner
    places = starts[:, None, None] + offsets[:, None] + np.arange(depth)
    image = normal(seed, int(places.max()) + 1)
    case: Case = {
        "input": image,
        "width": width,
        "inner_stride": inner,
        "outer_stride": outer,
        "offsets": offsets,
        "taps": taps,
    }
    return case, image[places]


def gemm_case(shape: Shape, seed: int) -> tuple[Case, np.ndarray]:
    rows, columns, taps, depth = shape
    weight, bias = normal(seed + 1, columns, taps, depth), normal(seed, columns)
    place, seen = windows(shape, seed)
    added = normal(seed + 2, rows, columns + 3) if seed % 2 else None
    case: Case = {
        **place,
        "added": added,
        "added_stride": columns + 3,
        "weight": blocked(weight, FLOAT_LAYOUT),
        "columns": columns,
        "depth": depth,
        "bias": bias,
        "out": np.zeros((rows, columns), np.float32),
        "out_stride": columns,
        "low": -2.0,
        "high": 2.5,
    }
    terms = seen.reshape(rows, -1).T[:, :, None], weight.reshape(columns, -1).T[:, None]
    sums = chain(np.tile(bias, (rows, 1)), *terms)
    return case, np.clip(sums if added is None else sums + added[:, :columns], -2.0, 2.5)


@every_level
@given(tried=st.lists(shapes, min_size=8, max_size=8), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=4)
def test_gemm_is_one_chain_of_multiply_adds(isa: Isa, tried: list[Shape], seed: int) -> None:
    cases = [gemm_case(shape, seed) for shape in tried]
    found = run_kernel("gemm_f32", isa, [case for case, _ in cases], [(0, shape[0]) for shape in tried])
    for result, (_, expected) in zip(found, cases, strict=True):
        np.testing.assert_array_equal(result, expected)


def test_gemm_does_the_tasks_asked_for_without_offsets_or_a_bias() -> None:
    x, weight, out = normal(0, 9, 8), normal(1, 20, 1, 7), np.full((9, 22), 5, np.float32)
    case: Case = {
        "input": x,
        "width": 9,
        "inner_stride": 8,
        "weight": blocked(weight, FLOAT_LAYOUT),
        "columns": 20,
        "taps": 1,
        "depth": 7,
        "out": out,
        "out_stride": 22,
        "low": -np.inf,
        "high": np.inf,
    }
    expected = out.copy()
    expected[2:8, :20] = chain(np.zeros((6, 20), np.float32), x[2:8, :7].T[:, :, None], weight[:, 0].T[:, None])
    for isa in (Isa.PORTABLE, Isa.NEON):
        (found,) = run_kernel("gemm_f32", isa, [case], [(2, 8)])
        np.testing.assert_array_equal(found, expected)


@every_level
@pytest.mark.parametrize("turned", [False, True])
def test_packing_of_activations_is_that_of_weights(isa: Isa, turned: bool) -> None:
    cases, expected = [], []
    for columns, depth in ((1, 1), (16, 5), (37, 9), (48, 16)):
        x = normal(columns, depth, columns)
        expected.append(blocked(x.T.copy(), FLOAT_LAYOUT))
        strides = (1, depth) if turned else (columns, 1)
        cases.append(
            {
                "input": x.T.copy() if turned else x,
                "depth_stride": strides[0],
                "column_stride": strides[1],
                "depth": depth,
                "columns": columns,
                "out": np.ones_like(expected[-1]),
            }
        )
    for result, wanted in zip(
        run_kernel("pack_f32", isa, cases, [(0, len(e)) for e in expected]), expected, strict=True
    ):
        np.testing.assert_array_equal(result, wanted)


def depthwise_case(shape: Shape, seed: int) -> tuple[Case, np.ndarray]:
    rows, _, taps, channels = shape
    weight, bias = normal(seed + 1, taps, channels), normal(seed, channels)
    place, seen = windows(shape, seed)
    case: Case = {
        **place,
        "weight": weight,
        "channels": channels,
        "bias": bias,
        "out": np.zeros((rows, channels), np.float32),
        "out_stride": channels,
        "low": 0.0,
        "high": 1.5,
    }
    sums = chain(np.tile(bias, (rows, 1)), seen.swapaxes(0, 1), weight[:, None])
    return case, np.clip(sums, 0, 1.5)


@every_level
@given(tried=st.lists(wide_shapes, min_size=8, max_size=8), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=4)
def test_depthwise_is_one_chain_of_multiply_adds(isa: Isa, tried: list[Shape], seed: int) -> None:
    cases = [depthwise_case(shape, seed) for shape in tried]
    found = run_kernel("depthwise_f32", isa, [case for case, _ in cases], [(0, shape[0]) for shape in tried])
    for result, (_, expected) in zip(found, cases, strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("name", "make"), [("gemm_f32", gemm_case), ("depthwise_f32", depthwise_case)])
def test_products_stay_inside_their_memory(name: str, make: object) -> None:
    cases = [make(shape, 1) for shape in ((5, 33, 2, 7), (1, 70, 1, 75))]  # pyright: ignore[reportCallIssue]
    found = run_kernel(name, Isa.AVX2, [case for case, _ in cases], [(0, 5), (0, 1)], sanitize=True)
    for result, (_, expected) in zip(found, cases, strict=True):
        np.testing.assert_array_equal(result, expected)
