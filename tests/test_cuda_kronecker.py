"""Products with two small matrices and codes in one kernel: within the stated bound of the meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import FORMATS, CodeFormat, Kind, choose_kronecker
from qcompiler.errors import UnsupportedError
from qcompiler.ir.online import kronecker
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of
from tests.test_cuda_quantizers import TYPES, codes_of, memory

UNIT: dict[Kind, float] = {"f16": 2.0**-11, "bf16": 2.0**-8}


def factor(size: int, to: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A well-conditioned matrix as stored, and the same filled up with zeros."""
    plain = (torch.linalg.qr(torch.randn(size, size)).Q + 0.1 * torch.randn(size, size)).to(dtype)
    held = torch.zeros(to, to, dtype=dtype)
    held[:size, :size] = plain
    return plain, held


def case(
    kind: Kind, rows: int, outer: int, inner: int, format_: CodeFormat
) -> tuple[str, dict, torch.Tensor, torch.Tensor]:
    """Instance, arguments, the exact result and the bound of the difference."""
    dtype = TYPES[kind]
    instance, outer_to, inner_to = choose_kronecker(kind, outer, inner)
    x = torch.randn(rows, outer * inner).to(dtype)
    (left, held_left), (right, held_right) = factor(outer, outer_to, dtype), factor(inner, inner_to, dtype)
    wide = x.double(), left.double(), right.double()
    sizes = kronecker(*(part.abs() for part in wide))
    out_width = outer * inner if format_ == "real" else -(-outer * inner // 32) * 32
    arguments = {
        "input": memory(x),
        "left": memory(held_left.T.contiguous()),
        "right": memory(held_right),
        "out": aligned(np.full((rows, out_width), 0x55, np.int16 if format_ == "real" else np.uint8)),
        "scale": np.full(rows, np.nan, np.float32),
        "zero": np.full(rows, -1, np.int32),
        "sum": np.full(rows, -1, np.int32),
        "rows": rows,
        "outer": outer,
        "inner": inner,
        "stride": outer * inner,
        "out_width": out_width,
        "format": FORMATS[format_],
        "symmetric": 1,
        "lowest": -448.0 if format_ == "e4m3" else -8.0 if format_ == "int4" else -128.0,
        "highest": 448.0 if format_ == "e4m3" else 7.0 if format_ == "int4" else 127.0,
    }
    return instance.name, arguments, kronecker(*wide), sizes * (UNIT[kind] + (outer + inner) * 2.0**-24)


sizes = st.tuples(st.integers(1, 70), st.integers(1, 9).map(lambda eights: 8 * eights))


@pytest.mark.parametrize("kind", UNIT)
@given(rows=st.integers(1, 6), size=sizes, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=12)
def test_reals_are_within_the_bound(kind: Kind, rows: int, size: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    name, given_case, ideal, bound = case(kind, rows, *size, "real")
    run_instance("kronecker", name, given_case, ("out",))
    found = torch.from_numpy(given_case["out"]).view(TYPES[kind]).double()
    assert torch.all((found - ideal).abs() <= bound + UNIT[kind] * ideal.abs() + 1e-7)


@pytest.mark.parametrize("format_", ["int8", "int4", "e4m3"])
@given(rows=st.integers(1, 6), size=sizes, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=12)
def test_codes_are_within_half_a_step(format_: CodeFormat, rows: int, size: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    name, given_case, ideal, bound = case("f16", rows, *size, format_)
    if format_ == "int4":
        given_case["out"] = aligned(given_case["out"][:, ::2].copy())
    run_instance("kronecker", name, given_case, ("out", "scale", "zero", "sum"))
    codes, scale = torch.from_numpy(codes_of(given_case)).double(), torch.from_numpy(given_case["scale"]).double()
    width = ideal.shape[1]
    largest = ideal.abs().amax(-1)
    assert torch.all((scale * given_case["highest"] - largest).abs() <= bound.amax(-1) + 1e-6 * largest)
    # Steps of e4m3 grow with the number: four bits in all are kept.
    step = torch.maximum(codes[:, :width].abs() / 8, torch.tensor(2.0**-9)) if format_ == "e4m3" else torch.ones(())
    assert torch.all((codes[:, :width] * scale[:, None] - ideal).abs() <= 0.501 * step * scale[:, None] + bound)
    assert torch.all(codes[:, width:] == 0)
    assert np.all(given_case["zero"] == 0)
    if format_ != "e4m3":
        np.testing.assert_array_equal(given_case["sum"], codes.sum(-1))


@pytest.mark.parametrize("name", [instance.name for instance in KERNELS["kronecker"].instances])
def test_every_instance(name: str) -> None:
    torch.manual_seed(1)
    kind: Kind = next(one for one in UNIT if f"_{one}_" in name)
    outer, inner = map(int, name.rpartition("_")[2].split("x"))
    found, given_case, ideal, bound = case(kind, 1, outer, inner - 8, "int8")
    assert found == name
    run_instance("kronecker", name, given_case, ("out", "scale"))
    codes, scale = torch.from_numpy(codes_of(given_case)).double(), float(given_case["scale"][0])
    assert torch.all((codes[:, : ideal.shape[1]] * scale - ideal).abs() <= 0.501 * scale + bound)


@pytest.mark.parametrize("format_", ["int8", "real"])
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 64)])
def test_shared_memory_has_no_bank_conflicts(size: tuple[int, int], format_: CodeFormat) -> None:
    name, given_case, _, _ = case("f16", 1, *size, format_)
    traffic = traffic_of("kronecker", name, given_case)
    assert traffic.shared_wavefronts == traffic.shared_ideal
    outer, inner = size
    assert traffic.mma_f16 == outer // 16 * (inner // 8) * (inner // 16 + outer // 16)


def test_what_no_instance_holds_is_refused() -> None:
    refused: tuple[tuple[Kind, int, int], ...] = (("f16", 129, 64), ("f16", 64, 20), ("f32", 64, 64))
    for kind, outer, inner in refused:
        with pytest.raises(UnsupportedError):
            choose_kronecker(kind, outer, inner)


def test_nothing_is_touched_beyond_arrays() -> None:
    name, given_case, _, _ = case("f16", 5, 33, 24, "int8")
    out = run_sanitized("kronecker", name, given_case, ("out",))["out"]
    run_instance("kronecker", name, given_case, ("out",))
    np.testing.assert_array_equal(out, given_case["out"])
