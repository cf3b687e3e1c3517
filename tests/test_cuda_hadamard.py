"""Fast Hadamard products on a GPU's lanes: the stated order of sums bit for bit, and the meaning within its bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import FORMATS, CodeFormat, Kind, choose_hadamard
from qcompiler.errors import UnsupportedError
from qcompiler.hadamard import core, hadamard, multiply, random_signs
from qcompiler.spec import QuantSpec, choose_qparams, quantize
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of
from tests.test_cuda_quantizers import TYPES, codes_of, memory

HALVES: tuple[Kind, ...] = ("f16", "bf16")
SPEC = QuantSpec.parse("int8 sym block=(1,-1) scale=f32 dynamic")


def case(x: torch.Tensor, block: int, signs: torch.Tensor | None, format_: CodeFormat) -> dict:
    rows, width = x.shape
    size = core(block)
    stored = None if signs is None else aligned(np.packbits(signs.numpy() < 0, bitorder="little"))
    kind = np.float32 if x.dtype == torch.float32 else np.int16
    out_width = width if format_ == "real" else -(-width // 32) * 32
    return {
        "input": memory(x),
        "out": aligned(np.full((rows, out_width), 0x55, kind if format_ == "real" else np.uint8)),
        "scale": np.full(rows, np.nan, np.float32),
        "signs": stored,
        "matrix": aligned(hadamard(size).float().numpy()) if size > 1 else None,
        "rows": rows,
        "width": width,
        "stride": width,
        "out_width": out_width,
        "levels": (block // size).bit_length() - 1,
        "core": size,
        "format": FORMATS[format_],
        "symmetric": 1,
        "factor": 1 / math.sqrt(block),
        "lowest": -128.0,
        "highest": 127.0,
    }


def order_of(width: int, block: int) -> list[int]:
    """The distances of butterflies in the order that the header states, as powers of two."""
    whole = block == width and core(block) == 1
    log = width.bit_length() - 1 if whole else max(10, (width - 1).bit_length())
    each = min(log - 5, 6 if whole or log == 15 else 5)
    middle = 3 + log - each
    levels = (block // core(block)).bit_length() - 1
    return [bit for bit in (0, 1, 2, *range(middle, log), *range(3, middle)) if bit < levels]


def stated(x: torch.Tensor, block: int, signs: torch.Tensor | None) -> np.ndarray:
    """The product in float32 with its sums in the stated order."""
    rows, width = x.shape
    y = x.float().numpy() * (1 if signs is None else signs.float().numpy()) * np.float32(1 / math.sqrt(block))
    for bit in order_of(width, block):
        pairs = y.reshape(rows, -1, 2, 1 << bit)
        y = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2)
    size = core(block)
    runs = y.reshape(rows, -1, size, block // size)
    if size == 1:
        return y.reshape(rows, width)
    matrix = hadamard(size).float().numpy()
    total = np.zeros_like(runs)
    for i in range(size):
        total = total + matrix[i][:, None] * runs[:, :, i : i + 1]
    return total.reshape(rows, width)


def check(kind: Kind, rows: int, width: int, block: int, seed: int, signed: bool) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(rows, width) * torch.randint(1, 100, (rows, 1))).to(TYPES[kind])
    signs = random_signs(width, seed) if signed else None
    name = choose_hadamard(kind, width, block).name
    expected = stated(x, block, signs)

    meaning = multiply((x.float() if signs is None else x * signs).double(), block).numpy()
    terms = (block // core(block)).bit_length() - 1 + core(block) + 2
    bound = terms * 2.0**-24 * x.float().norm(dim=-1, keepdim=True).numpy() * math.sqrt(width / block) * 2
    assert np.all(np.abs(expected - meaning) <= bound)

    real = case(x, block, signs, "real")
    run_instance("hadamard", name, real, ("out",))
    np.testing.assert_array_equal(real["out"], memory(torch.from_numpy(expected).to(x.dtype)))

    given_case = case(x, block, signs, "int8")
    run_instance("hadamard", name, given_case, ("out", "scale"))
    scale, zero = choose_qparams(torch.from_numpy(expected), SPEC)
    assert isinstance(scale, torch.Tensor)
    found = codes_of(given_case)
    np.testing.assert_array_equal(found[:, :width], quantize(torch.from_numpy(expected), scale, zero, SPEC).numpy())
    np.testing.assert_array_equal(found[:, width:], 0)
    np.testing.assert_array_equal(given_case["scale"], scale[:, 0].numpy())

    ideal = torch.from_numpy(meaning).float()
    ideal_scale, _ = choose_qparams(ideal, SPEC)
    assert isinstance(ideal_scale, torch.Tensor)
    steps = ideal / ideal_scale
    apart = found[:, :width] != steps.round().numpy()
    nearness = np.abs(np.abs(steps.numpy() % 1) - 0.5)
    assert np.all(nearness[apart] < 1e-3)
    assert np.all(np.abs(found[:, :width] - steps.numpy())[apart] < 0.51)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("log", range(8, 16))
def test_whole_rows(kind: Kind, log: int) -> None:
    check(kind, 1 if log > 12 else 5, 1 << log, 1 << log, log, signed=log % 2 == 0)


@given(
    kind=st.sampled_from(tuple(TYPES)),
    rows=st.integers(1, 5),
    block=st.sampled_from((1, 2, 8, 16, 64, 96, 128, 160, 192, 224, 256, 288, 352, 512, 768)),
    count=st.integers(1, 12),
    seed=st.integers(0, 99),
    signed=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_blocks(kind: Kind, rows: int, block: int, count: int, seed: int, signed: bool) -> None:
    check(kind, rows, max(8, block) * count, block, seed, signed)


@pytest.mark.parametrize(
    ("width", "block"), [(3584, 3584), (11008, 11008), (14336, 14336), (28672, 28672), (16384, 128), (9216, 1024)]
)
def test_widths_of_large_models(width: int, block: int) -> None:
    check("bf16", 1, width, block, 1, signed=True)


@pytest.mark.parametrize("kind", ["f16", "f32"])
@pytest.mark.parametrize("log", range(8, 16))
def test_shared_memory_has_no_bank_conflicts(kind: Kind, log: int) -> None:
    x = torch.randn(4, 1 << log).to(TYPES[kind])
    traffic = traffic_of("hadamard", f"qc_hadamard_{kind}_{1 << log}", case(x, 1 << log, None, "int8"))
    assert traffic.shared_wavefronts == traffic.shared_ideal
    # In and out once for the middle, once for the end; the longest rows once more.
    passes = 3 if log == 15 else 2
    assert traffic.shared_ideal == 4 * 2 * passes * (1 << log) // 32
    if kind == "f16":
        assert traffic.global_sectors == traffic.global_ideal == 4 * 3 * (1 << log) // 32


@pytest.mark.parametrize("width", [1024, 4096, 16384])
def test_blocks_have_no_bank_conflicts(width: int) -> None:
    x = torch.randn(4, width).half()
    traffic = traffic_of("hadamard", choose_hadamard("f16", width, 256).name, case(x, 256, None, "int8"))
    assert traffic.shared_wavefronts == traffic.shared_ideal


def test_what_no_instance_holds_is_refused() -> None:
    for width, block in ((36864, 36864), (12, 4), (24, 24), (184, 184)):
        with pytest.raises(UnsupportedError):
            choose_hadamard("f16", width, block)


def test_every_instance_is_reached() -> None:
    found = {choose_hadamard(kind, 1 << log, 1 << log).name for kind in TYPES for log in range(8, 16)}
    found |= {choose_hadamard(kind, 1 << log, 64).name for kind in TYPES for log in range(10, 15)}
    found |= {choose_hadamard(kind, 1 << 15, 64).name for kind in HALVES}
    assert found == {instance.name for instance in KERNELS["hadamard"].instances}


def test_nothing_is_touched_beyond_arrays() -> None:
    width, block = 96 * 7, 96
    x = torch.randn(5, width).half()
    given_case = case(x, block, random_signs(width, 1), "int8")
    out = run_sanitized("hadamard", choose_hadamard("f16", width, block).name, given_case, ("out",))["out"]
    run_instance("hadamard", choose_hadamard("f16", width, block).name, given_case, ("out",))
    np.testing.assert_array_equal(out, given_case["out"])
