"""The integer depthwise convolution of generated C, on every level, equals its meaning element for element."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.kernels.row import Blocked
from qcompiler.backends.c.packing import blocked, depthwise_taps
from tests.c_harness import Case, run_kernel
from tests.c_int8 import CODES, FINISHES, INT32, act_dtype, finished, make_epilogue, out_dtype

KERNEL = MICRO_KERNELS["depthwise_i8"]


@dataclass(frozen=True)
class Geometry:
    """Where output positions and taps lie, in elements."""

    positions: int
    width: int
    inner: int
    outer: int
    offsets: np.ndarray


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    return draw(st.integers(1, 20)), draw(st.integers(1, 200)), draw(st.sampled_from([1, 3, 4, 9, 25, 49]))


def make_case(
    isa: Isa, layout: Blocked, place: Geometry, pixels: np.ndarray, weight: np.ndarray, finish: int, seed: int
) -> Case:
    channels, taps = weight.shape
    wide = -(-channels // layout.columns) * layout.columns
    return {
        "input": pixels,
        "width": place.width,
        "inner_stride": place.inner,
        "outer_stride": place.outer,
        "offsets": place.offsets,
        "weight": blocked(weight, layout),
        "channels": channels,
        "taps": taps,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "block_lanes": layout.lanes,
        "out": np.zeros((place.positions, channels), out_dtype(isa, finish)),
        "out_stride": channels,
        **make_epilogue(isa, finish, place.positions, wide, np.random.default_rng(seed), seed % 2 == 1),
    }


def scattered(
    isa: Isa, layout: Blocked, shape: tuple[int, int, int], finish: int, seed: int
) -> tuple[Case, np.ndarray]:
    """Taps anywhere; with the sums that are expected."""
    positions, channels, taps = shape
    random = np.random.default_rng(seed)
    info = np.iinfo(act_dtype(isa))
    width, inner, outer = (int(most) for most in random.integers(1, (positions + 2, channels + 9, 5 * channels)))
    offsets = random.integers(0, 9 * channels, taps, dtype=np.int32)
    places = (np.arange(positions) // width * outer + np.arange(positions) % width * inner)[:, None] + offsets
    pixels = random.integers(info.min, info.max + 1, int(places.max()) + channels, dtype=act_dtype(isa))
    weight = random.integers(-128, 128, (channels, taps), dtype=np.int8)
    inputs = pixels[places[..., None] + np.arange(channels)].astype(np.int64)
    sums = np.einsum("mtc,ct->mc", inputs, weight.astype(np.int64))
    place = Geometry(positions, width, inner, outer, offsets)
    return make_case(isa, layout, place, pixels, weight, finish, seed), sums


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@given(shape=shapes(), finish=st.sampled_from(FINISHES), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_equals_its_meaning(isa: Isa, shape: tuple[int, int, int], finish: int, seed: int) -> None:
    case, sums = scattered(isa, KERNEL.layout(isa), shape, finish, seed)
    (found,) = run_kernel("depthwise_i8", isa, [case], [(0, shape[0])])
    np.testing.assert_array_equal(found, finished(case, sums))


@pytest.mark.parametrize("isa", [Isa.AVX512, Isa.DOTPROD], ids=lambda isa: isa.value)
@given(shape=shapes(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_portable_reads_the_layouts_of_all(isa: Isa, shape: tuple[int, int, int], seed: int) -> None:
    case, sums = scattered(Isa.PORTABLE, KERNEL.layout(isa), shape, INT32, seed)
    (found,) = run_kernel("depthwise_i8", Isa.PORTABLE, [case], [(0, shape[0])])
    np.testing.assert_array_equal(found, finished(case, sums))


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@given(
    window=st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 3, 5])),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    channels=st.sampled_from([1, 16, 40, 64, 100]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=20)
def test_windows_of_an_image(
    isa: Isa, window: tuple[int, int], stride: int, dilation: int, channels: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    info = np.iinfo(act_dtype(isa))
    height, width = (dilation * (size - 1) + int(random.integers(1, 11)) for size in window)
    image = random.integers(info.min, info.max + 1, (height, width, channels), dtype=act_dtype(isa))
    weight = random.integers(-128, 128, (channels, *window), dtype=np.int8)
    given = torch.from_numpy(image).double().permute(2, 0, 1)[None]
    sums = torch.conv2d(given, torch.from_numpy(weight).double()[:, None], None, stride, 0, dilation, channels)[0]
    codes, taps = depthwise_taps(weight)
    offsets = np.array([(y * width + x) * channels * dilation for y, x in taps], dtype=np.int32)
    across = sums.shape[2]
    place = Geometry(sums[0].numel(), across, stride * channels, stride * width * channels, offsets)
    case = make_case(isa, KERNEL.layout(isa), place, image, codes, INT32, seed)
    (found,) = run_kernel("depthwise_i8", isa, [case], [(0, place.positions)])
    expected = sums.permute(1, 2, 0).reshape(-1, channels).numpy().astype(np.int64)
    np.testing.assert_array_equal(found, finished(case, expected))


@pytest.mark.parametrize("isa", [Isa.PORTABLE, Isa.AVX512], ids=lambda isa: isa.value)
def test_stays_inside_its_memory(isa: Isa) -> None:
    layout = KERNEL.layout(isa)
    pairs = [scattered(isa, layout, shape, CODES, 1) for shape in ((1, 5, 9), (7, 70, 25), (9, 130, 1), (3, 32, 4))]
    tasks = [(0, sums.shape[0]) for _, sums in pairs]
    results = run_kernel("depthwise_i8", isa, [case for case, _ in pairs], tasks, sanitize=True)
    for (case, sums), found in zip(pairs, results, strict=True):
        np.testing.assert_array_equal(found, finished(case, sums))
