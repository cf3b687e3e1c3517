"""Run-time quantization of generated C equals the specs' own, and the simulation of blocks, code for code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.c.isa import Isa
from qcompiler.backends.reference import MEANINGS
from qcompiler.backends.reference.weights import blocked
from qcompiler.spec import QuantSpec, block_reduce, choose_qparams, quantize
from tests.c_floats import WINDOWS, Shape, Window
from tests.c_harness import Case, run_kernel, run_kernel_fields
from tests.c_int8 import act_dtype

LEVELS = (Isa.PORTABLE, Isa.AVX2, Isa.AVX512, Isa.NEON, Isa.NEON32)
every_level = pytest.mark.parametrize("isa", LEVELS, ids=lambda isa: isa.value)
SPECS = (
    "int8 sym block=(1,-1) scale=f32 dynamic",
    "uint8 asym block=(1,-1) scale=f32 dynamic",
    "int8 asym block=(1,-1) scale=f32 dynamic",
)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 90))


def reals(seed: int, rows: int, width: int) -> np.ndarray:
    """Rows of all magnitudes, of zeros, of one sign, with exact halves of steps."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, width)) * 10.0 ** random.integers(-12, 12, (rows, 1))
    kind = random.integers(0, 6, (rows, 1))
    x = np.where(kind == 0, 0, np.where(kind == 1, np.abs(x), np.where(kind == 2, -np.abs(x), x)))
    x = np.where(kind == 3, random.integers(-254, 255, (rows, width)) / 2, x)
    x[:, 0] = np.where(kind[:, 0] == 3, 127, x[:, 0])
    return x.astype(np.float32)


def row_case(spec: QuantSpec, x: np.ndarray, shift: int) -> Case:
    rows, width = x.shape
    fields: dict[str, np.ndarray] = {
        "out": np.zeros((rows, width), np.uint8),
        "scale": np.zeros(rows, np.float32),
        "zero": np.zeros(rows, np.int32),
        "sum": np.zeros(rows, np.int32),
    }
    return {
        "input": x,
        "input_stride": width,
        "width": width,
        "symmetric": int(spec.symmetric),
        "lowest": float(spec.format.lowest),
        "highest": float(spec.format.highest),
        "shift": float(shift),
        "out_stride": width,
        **fields,
    }


@every_level
@given(tried=st.lists(sizes, min_size=6, max_size=6), seed=st.integers(0, 999), text=st.sampled_from(SPECS))
@settings(deadline=None, max_examples=3)
def test_rows_get_the_codes_of_their_spec(isa: Isa, tried: list[tuple[int, int]], seed: int, text: str) -> None:
    spec, shift = QuantSpec.parse(text), 128 if text[:4] == "int8" else 0
    xs = [reals(seed + i, *size) for i, size in enumerate(tried)]
    cases = [row_case(spec, x, shift) for x in xs]
    results = run_kernel_fields("quantize_rows", isa, cases, [(0, len(x)) for x in xs], ("out", "scale", "zero", "sum"))
    for x, found in zip(xs, results, strict=True):
        plain = torch.from_numpy(x)
        scale, zero = choose_qparams(plain, spec)
        assert isinstance(scale, torch.Tensor)
        codes = quantize(plain, scale, zero, spec).numpy()
        np.testing.assert_array_equal(found["scale"], scale.numpy()[:, 0])
        np.testing.assert_array_equal(found["zero"], zero.numpy()[:, 0] + shift)
        np.testing.assert_array_equal(found["out"], (codes + shift).astype(np.uint8))
        np.testing.assert_array_equal(found["sum"], codes.sum(1))


def block_case(x: np.ndarray, block: int) -> Case:
    rows, width = x.shape
    blocks = -(-width // block)
    fields: dict[str, np.ndarray] = {
        "out": np.zeros((rows, width), np.int8),
        "scale": np.zeros((rows, blocks), np.float32),
        "sum": np.zeros((rows, blocks), np.int32),
    }
    return {"input": x, "input_stride": width, "width": width, "block": block, "out_stride": width, **fields}


@every_level
@given(tried=st.lists(sizes, min_size=6, max_size=6), seed=st.integers(0, 999), block=st.sampled_from([16, 32, 7]))
@settings(deadline=None, max_examples=3)
def test_blocks_equal_the_simulation(isa: Isa, tried: list[tuple[int, int]], seed: int, block: int) -> None:
    xs = [reals(seed + i, *size) for i, size in enumerate(tried)]
    cases = [block_case(x, block) for x in xs]
    results = run_kernel_fields("quantize_blocks", isa, cases, [(0, len(x)) for x in xs], ("out", "scale", "sum"))
    for x, found in zip(xs, results, strict=True):
        rows, width = x.shape
        plain = torch.from_numpy(x)
        scale = block_reduce(plain, (1, block), "absmax").numpy() / np.float32(127)
        np.testing.assert_array_equal(found["scale"], scale)
        spread = np.repeat(scale, block, 1)[:, :width].astype(np.float64)
        np.testing.assert_array_equal(found["out"] * spread, blocked(plain, block).numpy())
        padded = np.pad(found["out"].astype(np.int32), ((0, 0), (0, -width % block)))
        np.testing.assert_array_equal(found["sum"], padded.reshape(rows, -1, block).sum(2))


def test_what_is_no_number_becomes_the_lowest_code_and_counts_nowhere() -> None:
    x = np.array([[np.nan, 1, -2, 0.5]], np.float32)
    spec = QuantSpec.parse(SPECS[0])
    (found,) = run_kernel("quantize_rows", Isa.PORTABLE, [row_case(spec, x, 0)], [(0, 1)])
    np.testing.assert_array_equal(found.view(np.int8), [[-128, 64, -127, 32]])


def test_a_range_beyond_the_largest_float_is_quantized() -> None:
    x = np.array([[3e38, -3e38, 0]], np.float32)
    (found,) = run_kernel("quantize_rows", Isa.PORTABLE, [row_case(QuantSpec.parse(SPECS[1]), x, 0)], [(0, 1)])
    np.testing.assert_array_equal(found, [[255, 0, 128]])


POOLS = ("carry", "average_pool", "global_mean")


def pool_case(isa: Isa, kind: int, channels: int, image: Shape, window: Window) -> tuple[Case, np.ndarray]:
    """Windows over two images, and the codes that the meaning gives, as stored."""
    dtype = act_dtype(isa)
    info, random = np.iinfo(dtype), np.random.default_rng(channels)
    x = random.integers(info.min, info.max + 1, (2, *image, channels), dtype=dtype)
    scale, zero, result = torch.tensor(0.03), torch.tensor(float(info.min + 100)), torch.tensor(0.021)
    given = [torch.from_numpy(x).float().permute(0, 3, 1, 2), scale, zero]
    low, high = float(info.min + 3), float(info.max - 5)
    options = {"result": [result, zero + 7], "low": low, "high": high}
    if kind == POOLS.index("global_mean"):
        window = Window(image)
        meaning = MEANINGS["global_mean"](given, [2, 3], True, op="aten.mean.dim", **options)
    elif kind == POOLS.index("average_pool"):
        meaning = MEANINGS["average_pool"](given, *window.arguments(), False, False, op="aten.avg_pool2d", **options)
    else:
        meaning = MEANINGS["carry"](given, *window.arguments(), window.dilation, op="aten.max_pool2d", **options)
    assert isinstance(meaning, torch.Tensor)
    out = meaning.permute(0, 2, 3, 1).contiguous().numpy()
    case: Case = {
        "input": x,
        **window.fields(image, out.shape[1:3], channels),
        "channels": channels,
        "kind": kind,
        "input_zero": float(zero),
        "input_scale": float(scale),
        "scale": float(result),
        "factor": float(scale / (result * float(image[0] * image[1]))),
        "zero_point": float(zero + 7),
        "low": low,
        "high": high,
        "out": np.zeros(out.shape, dtype),
        "out_stride": channels,
    }
    return case, out


@every_level
@pytest.mark.parametrize("kind", range(len(POOLS)), ids=POOLS)
def test_pools_of_codes_equal_their_meaning(isa: Isa, kind: int) -> None:
    cases = [pool_case(isa, kind, channels, *place) for channels, place in zip((1, 20, 130, 64), WINDOWS, strict=True)]
    tasks = [(0, expected.size // expected.shape[-1]) for _, expected in cases]
    for found, (_, expected) in zip(run_kernel("pool_i8", isa, [case for case, _ in cases], tasks), cases, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["quantize_rows", "quantize_blocks"])
def test_quantizers_stay_inside_their_memory(name: str) -> None:
    x = reals(3, 3, 37)
    case = row_case(QuantSpec.parse(SPECS[1]), x, 0) if name == "quantize_rows" else block_case(x, 16)
    checked = run_kernel(name, Isa.AVX2, [case], [(1, 3)], sanitize=True)
    np.testing.assert_array_equal(checked[0], run_kernel(name, Isa.PORTABLE, [case], [(1, 3)])[0])
