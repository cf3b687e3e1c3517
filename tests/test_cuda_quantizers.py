"""Activations to codes on a GPU's lanes: the same numbers as the specs' own arithmetic, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import FORMATS, CodeFormat, Kind, choose
from qcompiler.errors import UnsupportedError
from qcompiler.spec import QuantSpec, choose_qparams, quantize
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of

TYPES: dict[Kind, torch.dtype] = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
SPECS = (
    "int8 sym block=(1,-1) scale=f32 dynamic",
    "uint8 asym block=(1,-1) scale=f32 dynamic",
    "int8 asym block=(1,-1) scale=f32 dynamic",
    "int4 sym block=(1,-1) scale=f32 dynamic",
    "fp8e4m3 sym block=(1,-1) scale=f32 dynamic",
)


def reals(seed: int, rows: int, width: int, kind: Kind) -> torch.Tensor:
    """Rows of all magnitudes that the kind holds, of zeros, of one sign, with exact halves of steps."""
    random = np.random.default_rng(seed)
    most = 3 if kind == "f16" else 30
    x = random.standard_normal((rows, width)) * 10.0 ** random.integers(-most, most, (rows, 1))
    case = random.integers(0, 6, (rows, 1))
    x = np.where(case == 0, 0, np.where(case == 1, np.abs(x), np.where(case == 2, -np.abs(x), x)))
    x = np.where(case == 3, random.integers(-254, 255, (rows, width)) / 2, x)
    x[:, 0] = np.where(case[:, 0] == 3, 127, x[:, 0])
    return torch.from_numpy(x.astype(np.float32)).to(TYPES[kind])


def memory(x: torch.Tensor) -> np.ndarray:
    """As the device sees it."""
    return aligned((x if x.dtype == torch.float32 else x.view(torch.int16)).numpy())


def case(x: torch.Tensor, spec: QuantSpec, stride: int = 0) -> dict:
    rows, width = x.shape
    bits = spec.format.storage_bits
    name: CodeFormat = "int4" if bits == 4 else "e4m3" if spec.format.name == "fp8e4m3" else "int8"
    out_width = -(-width // 32) * 32
    held = torch.zeros(rows, max(width, stride), dtype=x.dtype)
    held[:, :width] = x
    return {
        "input": memory(held),
        "out": aligned(np.full((rows, out_width * bits // 8), 0x55, np.uint8)),
        "scale": np.full(rows, np.nan, np.float32),
        "zero": np.full(rows, -1, np.int32),
        "sum": np.full(rows, -1, np.int32),
        "rows": rows,
        "width": width,
        "stride": max(width, stride),
        "out_width": out_width,
        "format": FORMATS[name],
        "symmetric": int(spec.symmetric),
        "lowest": float(spec.format.lowest),
        "highest": float(spec.format.highest),
        "shift": 0.0 if spec.format.lowest < 0 else -128.0,
    }


def codes_of(given: dict) -> np.ndarray:
    """The codes of the program, and what stands behind them."""
    out = given["out"]
    if given["format"] == FORMATS["int4"]:
        nibbles = np.stack([out & 15, out >> 4], -1).reshape(len(out), -1).astype(np.int32)
        return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.float32)
    if given["format"] == FORMATS["e4m3"]:
        return torch.from_numpy(out.copy()).view(torch.float8_e4m3fn).float().numpy()
    return out.view(np.int8).astype(np.float32)


def run(kind: Kind, width: int, given: dict) -> None:
    instance = choose(KERNELS["quantize_rows"], kind, width)
    run_instance("quantize_rows", instance.name, given, ("out", "scale", "zero", "sum"))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("text", SPECS)
@given(rows=st.integers(1, 6), width=st.integers(1, 300), seed=st.integers(0, 99), wide=st.booleans())
@settings(deadline=None, max_examples=10)
def test_equals_meaning(kind: Kind, text: str, rows: int, width: int, seed: int, wide: bool) -> None:
    spec, width = QuantSpec.parse(text), width * 8 if wide else width
    x = reals(seed, rows, width, kind)
    given_case = case(x, spec)
    run(kind, given_case["out_width"], given_case)
    scale, zero = choose_qparams(x, spec)
    assert isinstance(scale, torch.Tensor)
    expected = quantize(x.float(), scale, zero, spec).numpy() + given_case["shift"]
    found = codes_of(given_case)
    np.testing.assert_array_equal(found[:, :width], expected)
    np.testing.assert_array_equal(found[:, width:], 0)
    np.testing.assert_array_equal(given_case["scale"], scale[:, 0].numpy())
    np.testing.assert_array_equal(given_case["zero"], zero[:, 0].numpy() + given_case["shift"])
    if not text.startswith("fp8"):
        np.testing.assert_array_equal(given_case["sum"], expected.sum(-1))


@pytest.mark.parametrize("name", [instance.name for instance in KERNELS["quantize_rows"].instances])
def test_every_instance_takes_its_widest_row(name: str) -> None:
    spec = QuantSpec.parse(SPECS[0])
    kind: Kind = next(one for one in TYPES if f"_{one}_" in name)
    width = int(name.rpartition("_")[2])
    x = reals(1, 2, width, kind)
    given_case = case(x, spec)
    run_instance("quantize_rows", name, given_case, ("out", "scale", "zero", "sum"))
    scale, zero = choose_qparams(x, spec)
    np.testing.assert_array_equal(codes_of(given_case), quantize(x.float(), scale, zero, spec).numpy())


@given(
    fraction=st.floats(1, 2, width=32), power=st.integers(-100, 100), zero=st.integers(0, 255), seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=30)
def test_given_scale_and_zero_point(fraction: float, power: int, zero: int, seed: int) -> None:
    scale = fraction * 2.0**power
    spec = QuantSpec.parse("uint8 asym block=(-1,-1) scale=f32")
    x = torch.from_numpy(np.random.default_rng(seed).normal(0, 99 * scale, (3, 70)).astype(np.float32))
    x[0, :4] = torch.tensor([torch.inf, -torch.inf, 0.0, scale / 2])
    given_case = {**case(x, spec), "fixed_scale": scale, "fixed_zero": float(zero)}
    run("f32", 96, given_case)
    parts = torch.tensor([[scale]]), torch.tensor([[float(zero)]])
    np.testing.assert_array_equal(codes_of(given_case)[:, :70], quantize(x, *parts, spec).numpy() - 128)


def test_smallest_and_largest_floats() -> None:
    spec = QuantSpec.parse(SPECS[0])
    x = torch.tensor([[1e-45, 9e-44, -2e-45, 0.0], [3e38, -3.4e38, 1e38, 1.0], [1e-39, -4e-40, 5e-41, 0.0]])
    given_case = case(x, spec)
    run("f32", 32, given_case)
    scale, zero = choose_qparams(x, spec)
    np.testing.assert_array_equal(codes_of(given_case)[:, :4], quantize(x, scale, zero, spec).numpy())


def test_what_is_no_number_becomes_the_lowest_code() -> None:
    x = torch.tensor([[1.0, torch.nan, -2.0, 0.5]])
    given_case = case(x, QuantSpec.parse(SPECS[0]))
    run("f32", 32, given_case)
    assert codes_of(given_case)[0, :4].tolist() == [64.0, -128.0, -127.0, 32.0]


def test_rows_of_a_wider_matrix() -> None:
    spec, x = QuantSpec.parse(SPECS[1]), reals(5, 5, 40, "f16")
    for stride in (40, 48, 41):
        given_case = case(x, spec, stride)
        run("f16", 64, given_case)
        scale, zero = choose_qparams(x, spec)
        expected = quantize(x.float(), scale, zero, spec).numpy() - 128
        np.testing.assert_array_equal(codes_of(given_case)[:, :40], expected)


@pytest.mark.parametrize("width", [256, 4096])
def test_reads_and_writes_whole_sectors_once(width: int) -> None:
    given_case = case(reals(2, 4, width, "f16"), QuantSpec.parse(SPECS[0]))
    traffic = traffic_of("quantize_rows", choose(KERNELS["quantize_rows"], "f16", width).name, given_case)
    assert traffic.global_sectors == traffic.global_ideal == 4 * width * 3 // 32
    assert traffic.shared_wavefronts == traffic.shared_ideal


def test_too_wide_a_row_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="rows of 40000"):
        choose(KERNELS["quantize_rows"], "f16", 40000)


def test_nothing_is_touched_beyond_arrays() -> None:
    rows, width = 2, 1500
    given_case = case(reals(4, rows, width, "f16"), QuantSpec.parse(SPECS[1]))
    outs = ("out", "scale", "zero", "sum")
    found = run_sanitized("quantize_rows", choose(KERNELS["quantize_rows"], "f16", width + 31).name, given_case, outs)
    run("f16", width + 31, given_case)
    for name in outs:
        np.testing.assert_array_equal(found[name], given_case[name])
