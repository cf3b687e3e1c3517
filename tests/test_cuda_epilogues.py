"""What kernels do behind sums: activations, residuals, clamps, in kernels and as lowering finds them in programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.cuda.assembly import assemble
from qcompiler.backends.cuda.layer import Layer
from qcompiler.backends.cuda.library import read_library
from qcompiler.backends.cuda.settings import settings_of
from qcompiler.job import backends
from qcompiler.targets import load_target
from tests.cuda_harness import aligned, run_instance
from tests.cuda_products import BF16, F16, F32, Parts, finish_arguments, numbers, room
from tests.test_cuda_backend import decibels

ONE_ROUNDING = {F32: 2.0**-24, F16: 2.0**-11, BF16: 2.0**-8}
ACTIVATIONS = {1: "relu", 2: "silu", 3: "gelu", 4: "gelu by tanh"}


def activated(x: np.ndarray, which: int) -> np.ndarray:
    """The exact functions, float64."""
    given = torch.from_numpy(x.astype(np.float64))
    if which == 1:
        return functional.relu(given).numpy()
    if which == 2:
        return functional.silu(given).numpy()
    # x F(x): the tail to the left would vanish in 1 + erf.
    if which == 3:
        return (given * torch.special.erfc(-given / math.sqrt(2)) / 2).numpy()
    return (given * torch.sigmoid(math.sqrt(8 / math.pi) * (given + 0.044715 * given**3))).numpy()


def at(x: np.ndarray, which: int) -> np.ndarray:
    """What a kernel makes of numbers: those of a bias beside empty sums."""
    zeros = {"input": aligned(np.zeros((1, 16), np.int8)), "weight": aligned(np.zeros((len(x), 16), np.int8))}
    given = {"bias": x, "activation": which, "rows": 1, "columns": len(x), "depth": 16, "splits": 1, "out_kind": F32}
    args = {**zeros, **given, "out": room(1, len(x), F32)}
    run_instance("gemv_i8", "qc_gemv_i8_1", args, ("out",))
    return args["out"][0]


@pytest.mark.parametrize("which", ACTIVATIONS)
def test_activations_are_within_their_bound(which: int) -> None:
    rng = np.random.default_rng(which)
    spread = [np.linspace(-12, 12, 1500), rng.normal(size=300) * 1e-3, rng.normal(size=300) * 1e3, [0.0, 1e19, -1e19]]
    x = np.concatenate(spread).astype(np.float32)
    exact = activated(x, which)
    assert (np.abs(at(x, which) - exact) <= 2.0**-20 * np.abs(exact) + 2.0**-24).all()


@pytest.mark.parametrize("which", [2, 3, 4])
def test_activations_of_what_is_no_number(which: int) -> None:
    found = at(np.array([np.inf, np.nan, 0.0, -0.0], np.float32), which)
    np.testing.assert_array_equal(found, [np.inf, np.nan, 0.0, 0.0])


def case(kind: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    x = aligned(rng.integers(-128, 128, (5, 96), dtype=np.int8))
    w = aligned(rng.integers(-128, 128, (37, 96), dtype=np.int8))
    parts = Parts(kind, bias=True, residual=True)
    return {"input": x, "weight": w, **finish_arguments(parts, x, w, seed), "out": room(5, 37, kind)}


@pytest.mark.parametrize("instance", ["qc_gemm_i8_64x64x64", "qc_gemv_i8_4"])
@pytest.mark.parametrize("kind", ONE_ROUNDING)
@pytest.mark.parametrize("which", ACTIVATIONS)
def test_activation_comes_in_front_of_the_residual_and_results_are_rounded_once(
    instance: str, kind: int, which: int
) -> None:
    args = case(kind, which)
    kernel = instance.split("_")[1] + "_i8"
    plain = {key: value for key, value in args.items() if key != "residual"} | {"out_kind": F32}
    plain["out"] = room(5, 37, F32)
    run_instance(kernel, instance, plain, ("out",))
    run_instance(kernel, instance, {**args, "activation": which}, ("out",))
    exact = activated(plain["out"], which) + numbers(args["residual"], kind)
    found = numbers(args["out"], kind)
    scale = np.abs(exact) + np.abs(activated(plain["out"], which))
    assert (np.abs(found - exact) <= 1.01 * ONE_ROUNDING[kind] * np.abs(exact) + 2.0**-19 * scale + 2.0**-23).all()


def test_codes_are_found_of_what_was_activated() -> None:
    args = {**case(F32, 1), "least": -128.0, "most": 127.0, "out_scale": 0.02, "zero_point": -100.0}
    del args["residual"]
    run_instance("gemm_i8", "qc_gemm_i8_64x64x64", {**args, "activation": 1}, ("out",))
    real = args["out"].copy()
    codes = {**args, "activation": 1, "out_kind": 3, "out": room(5, 37, 3)}
    run_instance("gemm_i8", "qc_gemm_i8_64x64x64", codes, ("out",))
    expected = np.clip(np.rint(real / np.float32(0.02)) - 100, -128, 127)
    np.testing.assert_array_equal(codes["out"], expected)
    assert (codes["out"] == -100).any()


def test_limits_stand_behind_the_residual() -> None:
    args = case(F32, 2)
    run_instance("gemm_i8", "qc_gemm_i8_64x64x64", {**args, "activation": 3}, ("out",))
    free = args["out"].copy()
    limits = {"clamped": 1, "least": 0.0, "most": 1.0}
    run_instance("gemm_i8", "qc_gemm_i8_64x64x64", {**args, "activation": 3, **limits}, ("out",))
    np.testing.assert_array_equal(args["out"], np.clip(free, 0, 1))


HEAD = """
spec @w = int8 sym block=(1,-1) scale=f32
spec @a = int8 sym block=(1,-1) scale=f32 dynamic
program @after stage=lowered {
  input %x : f32[3,32]
  input %r : f32[3,8]
  input %row : f32[8]
  param %w : @w[8,32] = zeros()
  param %ws : f32[8,1] = ones()
  %s, %z = qc.choose_qparams %x {spec=@a} : (f32[3,1], f32[3,1])
  %q = qc.quantize %x, %s, none : @a[3,32]
  %y = qc.kernel "linear_dynamic", [%q, %s, none], [%w, %ws, none], none {op="aten.linear"} : f32[3,8]
"""
CHAINS = {
    ", gelu": ("%g = aten.gelu %y : f32[3,8]", "%g"),
    ", gelu by tanh": ('%g = aten.gelu %y {approximate="tanh"} : f32[3,8]', "%g"),
    ", relu": ("%g = aten.relu %y : f32[3,8]", "%g"),
    ", silu + residual": ("%g = aten.silu %y : f32[3,8]\n %h = aten.add.Tensor %r, %g : f32[3,8]", "%h"),
    " + residual, relu": ("%g = aten.add.Tensor %y, %r : f32[3,8]\n %h = aten.relu %g : f32[3,8]", "%h"),
    " + residual": ("%g = aten.add.Tensor %y, %r : f32[3,8]\n %h = aten.gelu %g : f32[3,8]", "%h"),
    ", between 0 and 6": ("%g = aten.clamp %y, 0.0, 6.0 : f32[3,8]", "%g"),
}
"""What a layer's meaning ends with, by what follows it."""
LEFT = {
    "two readers of the product": ("%g = aten.gelu %y : f32[3,8]\n %h = aten.mul.Tensor %g, %y : f32[3,8]", "%h"),
    "a sum with a row": ("%g = aten.add.Tensor %y, %row : f32[3,8]", "%g"),
    "a sum with itself": ("%g = aten.add.Tensor %y, %y : f32[3,8]", "%g"),
    "a multiple": ("%g = aten.add.Tensor %y, %r {alpha=2} : f32[3,8]", "%g"),
    "an activation without a kernel": ("%g = aten.tanh %y : f32[3,8]", "%g"),
    "a gate of codes": (
        """%g = aten.silu %y : f32[3,8]
        %h = aten.mul.Tensor %g, %r : f32[3,8]
        %t, %u = qc.choose_qparams %h {spec=@a} : (f32[3,1], f32[3,1])
        %c = qc.quantize %h, %t, none : @a[3,8]
        %d = qc.dequantize %c, %t, none : f32[3,8]""",
        "%d",
    ),
}


def layer_of(chain: str, result: str) -> tuple[Layer, set[str]]:
    """The layer, and the operators that stay."""
    program = qcompiler.parse(f"{HEAD}  {chain}\n  return {result}\n}}\n")
    target = load_target("cuda{compute=float32, architectures=[80]}", backends())
    assembled = assemble(program, settings_of(target))
    return assembled.layers[0], {assembled.program.op(node) for node in assembled.program.nodes} - {"", "qc.kernel"}


@pytest.mark.parametrize("meaning", CHAINS)
def test_what_follows_a_layer_is_taken_into_it(meaning: str) -> None:
    layer, stays = layer_of(*CHAINS[meaning])
    assert layer.meaning.endswith(f"[8, 32]{meaning}")
    assert [port.width for port in layer.inputs] == [32, 8][: 1 + ("residual" in meaning)]
    assert stays == ({"aten.gelu"} if meaning == " + residual" else set())


@pytest.mark.parametrize("why", LEFT)
def test_what_does_not_follow_alone_stays(why: str) -> None:
    layer, stays = layer_of(*LEFT[why])
    assert layer.meaning.endswith("[8, 32]")
    assert stays


class Mlp(torch.nn.Module):
    """Two layers beside which their input goes on."""

    def __init__(self, activation: torch.nn.Module) -> None:
        super().__init__()
        self.up, self.down, self.activation = torch.nn.Linear(64, 48), torch.nn.Linear(48, 64), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.activation(self.up(x)))


MODULES = {
    "gelu": torch.nn.GELU(),
    "gelu by tanh": torch.nn.GELU("tanh"),
    "silu": torch.nn.SiLU(),
    "relu": torch.nn.ReLU(),
}


def compiled(name: str, recipe: str, compute: str = "float32") -> tuple[Artifact, torch.Tensor]:
    torch.manual_seed(2)
    x = torch.randn(5, 64)
    target = f"cuda{{device=emulation, build=later, compute={compute}, architectures=[80]}}"
    model = Mlp(MODULES[name]).eval()
    return qcompiler.compile(model, target, calibration=[(x,)], recipe=recipe, keep_float=False), x


@pytest.mark.parametrize(
    ("name", "recipe", "least"),
    [
        ("gelu", "w8a8_dynamic", 110),
        ("silu", "w8a8_dynamic", 110),
        # Weights of few bits meet activations rounded to half precision.
        ("gelu by tanh", "w4a16g32", 60),
        ("relu", "w4a16g32", 60),
    ],
)
def test_model_equals_its_meaning(name: str, recipe: str, least: float) -> None:
    artifact, x = compiled(name, recipe)
    up, down = read_library(artifact.folder / "cuda").layers
    assert up.meaning.endswith(f"[48, 64], {name}")
    assert down.meaning.endswith("[64, 48] + residual")
    assert decibels(artifact(x), artifact.simulate(x)) > least


def test_model_in_half_precision() -> None:
    artifact, x = compiled("gelu", "w8a8", "float16")
    assert decibels(artifact(x), artifact.simulate(x)) > 55
