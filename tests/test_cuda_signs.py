"""Signs on CUDA kernels, in emulation: found at run time, multiplied by comparison, equal to their meaning."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.cuda import integer_packing as packing
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import Kind, choose
from qcompiler.backends.cuda.library import read_library
from qcompiler.passes.recipes import Recipe
from qcompiler.spec import Number, choose_qparams, quantize
from tests.cuda_harness import aligned, run_instance, run_sanitized, traffic_of

KINDS: dict[Kind, torch.dtype] = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
STATIC, DYNAMIC = (
    Number.parse(text).spec(2, 0, 1) for text in ("binary sym tensor scale=f32", "binary sym token scale=f32 dynamic")
)


def bits_of(x: torch.Tensor) -> np.ndarray:
    """Reals as a kernel reads them."""
    return aligned(x.view(torch.int16).numpy() if x.dtype == torch.bfloat16 else x.numpy())


def arguments(x: torch.Tensor, scale: float) -> dict:
    rows, width = x.shape
    bytes_ = -(-width // 128) * 16
    return {
        "input": bits_of(x),
        "out": aligned(np.full((rows, bytes_), 77, np.uint8)),
        "scale": np.zeros(rows, np.float32),
        "rows": rows,
        "width": width,
        "stride": width,
        "out_width": 8 * bytes_,
        "fixed_scale": scale,
    }


def reals(rows: int, width: int, kind: Kind, seed: int) -> torch.Tensor:
    """Numbers of all sizes, zeros of both signs, and rows of nothing else."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator) * torch.logspace(-6, 1, width)
    x[torch.rand(rows, width, generator=generator) < 0.2] = -0.0
    x[0] *= float(seed % 3 > 0)
    return x.to(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [256, 2048])
@given(rows=st.integers(1, 9), less=st.integers(0, 255), dynamic=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=5)
def test_signs_are_those_of_quotients(kind: Kind, width: int, rows: int, less: int, dynamic: bool, seed: int) -> None:
    x = reals(rows, width - less, kind, seed)
    args = arguments(x, 0.0 if dynamic else 0.37)
    run_instance("signs", choose(KERNELS["signs"], kind, x.shape[1]).name, args, ("out", "scale"))
    spec = DYNAMIC if dynamic else STATIC
    scale = choose_qparams(x.float(), spec)[0] if dynamic else torch.tensor(0.37)
    assert isinstance(scale, torch.Tensor)
    np.testing.assert_array_equal(args["scale"], scale.reshape(-1).expand(rows).numpy())
    codes = quantize(x.float(), scale, None, spec)
    np.testing.assert_array_equal(args["out"], packing.pack_signs(codes.numpy()))


@pytest.mark.parametrize("scale", [1.0, 2.0, 5.0, 2.0**24 - 1, 2.0**25, 3e30])
def test_quotients_that_vanish_have_no_sign(scale: float) -> None:
    limit = torch.tensor(scale * 2.0**-150, dtype=torch.float64).float()
    near = torch.stack([limit, torch.nextafter(limit, limit * 0), torch.nextafter(limit, torch.tensor(1.0))])
    x = torch.cat([near, -near, torch.tensor([-1e-45, -2e-45])]).repeat(2).reshape(1, -1)
    args = arguments(x, scale)
    run_instance("signs", choose(KERNELS["signs"], "f32", x.shape[1]).name, args, ("out",))
    codes = quantize(x, torch.tensor(scale), None, STATIC)
    np.testing.assert_array_equal(args["out"], packing.pack_signs(codes.numpy()))


def test_rows_are_read_and_written_once() -> None:
    x = reals(4, 1024, "f16", 3)
    traffic = traffic_of("signs", choose(KERNELS["signs"], "f16", 1024).name, arguments(x, 1.0))
    assert traffic.global_sectors == traffic.global_ideal == (2 * x.numel() + x.numel() // 8) // 32


def test_touches_nothing_outside() -> None:
    x = reals(5, 201, "bf16", 5)
    name = choose(KERNELS["signs"], "bf16", 201).name
    found = run_sanitized("signs", name, arguments(x, 0.5), ("out",))
    codes = quantize(x.float(), torch.tensor(0.5), None, STATIC)
    np.testing.assert_array_equal(found["out"], packing.pack_signs(codes.numpy()))


class Pair(torch.nn.Module):
    """Layers one behind the other, with nothing between them, and two that read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(70, 200), torch.nn.Linear(200, 33, bias=False)
        self.third = torch.nn.Linear(200, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return torch.cat([self.second(x), self.third(x)], -1)


NUMBERS = {
    "static": ("binary sym tensor scale=f32", ("calibrate",)),
    "dynamic": ("binary sym token scale=f32 dynamic", ()),
}


def activations(rows: int) -> torch.Tensor:
    return torch.randn(rows, 70, generator=torch.Generator().manual_seed(rows))


@cache
def compiled(numbers: str, architectures: str) -> Artifact:
    torch.manual_seed(2)
    activation, more = NUMBERS[numbers]
    asked = f"assign{{weight=binary sym channel scale=f32, activation={activation}}}"
    target = f"cuda{{device=emulation, build=later, compute=float32, architectures=[{architectures}]}}"
    recipe = Recipe.of("signs", [asked, "apply_plan", *more, "nearest"])
    return qcompiler.compile(Pair().eval(), target, calibration=[(activations(20),)], recipe=recipe, keep_float=False)


@pytest.mark.parametrize("rows", [1, 20], ids=["one row", "many rows"])
@pytest.mark.parametrize(("numbers", "architectures"), [("static", "80"), ("dynamic", "90")])
def test_a_model_of_signs_equals_its_simulation(numbers: str, architectures: str, rows: int) -> None:
    artifact, x = compiled(numbers, architectures), activations(rows)
    assert not artifact.report.fallbacks
    found, expected = artifact(x), artifact.simulate(x)
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert torch.equal(found, expected)


def test_layers_one_behind_the_other_hand_on_bits() -> None:
    layers = read_library(compiled("static", "80").folder / "cuda").layers
    assert [layer.kernels for layer in layers] == [
        ("signs", "gemv_b1", "gemm_b1"),
        ("gemv_b1", "gemm_b1"),
        ("gemv_b1", "gemm_b1"),
    ]
    assert [layer.outputs[0].width for layer in layers] == [32, 33, 40]
    assert layers[0].outputs == layers[1].inputs == layers[2].inputs


def test_signs_that_several_layers_read_are_found_once() -> None:
    layers = read_library(compiled("dynamic", "90").folder / "cuda").layers
    assert [layer.kernels for layer in layers] == [
        ("signs", "gemv_b1", "gemm_b1"),
        ("signs",),
        ("gemv_b1", "gemm_b1"),
        ("gemv_b1", "gemm_b1"),
    ]
    assert [port.element for port in layers[1].outputs] == ["uint8", "float32"]
