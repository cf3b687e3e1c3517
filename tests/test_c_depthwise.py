"""The integer depthwise convolution of generated C, on every level, equals its meaning element for element."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.packing import blocked, unblocked
from tests.c_harness import Case, Value, run_kernel
from tests.c_int8 import FINISHES, act_dtype, finished, make_epilogue, out_dtype

KERNEL = MICRO_KERNELS["depthwise_i8"]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    return draw(st.integers(1, 20)), draw(st.integers(1, 200)), draw(st.sampled_from([1, 3, 4, 9, 25, 49]))


def make_case(isa: Isa, shape: tuple[int, int, int], finish: int, seed: int) -> tuple[Case, np.ndarray]:
    """Arguments and the sums that are expected."""
    positions, channels, taps = shape
    random = np.random.default_rng(seed)
    layout = KERNEL.layout(isa)
    info = np.iinfo(act_dtype(isa))
    width, inner, outer = (int(most) for most in random.integers(1, (positions + 2, channels + 9, 5 * channels)))
    offsets = random.integers(0, 9 * channels, taps, dtype=np.int32)
    places = (np.arange(positions) // width * outer + np.arange(positions) % width * inner)[:, None] + offsets
    pixels = random.integers(info.min, info.max + 1, int(places.max()) + channels, dtype=act_dtype(isa))
    weight = random.integers(-128, 128, (channels, taps), dtype=np.int8)
    inputs = pixels[places[..., None] + np.arange(channels)].astype(np.int64)
    sums = np.einsum("mtc,ct->mc", inputs, weight.astype(np.int64))
    wide = -(-channels // layout.columns) * layout.columns
    case: dict[str, Value] = {
        "input": pixels,
        "width": width,
        "inner_stride": inner,
        "outer_stride": outer,
        "offsets": offsets,
        "weight": blocked(weight, layout),
        "channels": channels,
        "taps": taps,
        "block_columns": layout.columns,
        "block_depth": layout.depth,
        "block_lanes": layout.lanes,
        "out": np.zeros((positions, channels), out_dtype(isa, finish)),
        "out_stride": channels,
        **make_epilogue(isa, finish, positions, wide, random, seed % 2 == 1),
    }
    return case, sums


@pytest.mark.parametrize("isa", list(KERNEL.variants), ids=lambda isa: isa.value)
@given(shape=shapes(), finish=st.sampled_from(FINISHES), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_equals_its_meaning(isa: Isa, shape: tuple[int, int, int], finish: int, seed: int) -> None:
    case, sums = make_case(isa, shape, finish, seed)
    (found,) = run_kernel("depthwise_i8", isa, [case], [(0, shape[0])])
    np.testing.assert_array_equal(found, finished(case, sums))
