"""Norms, activations and gated products in front of quantizers, in the same kernel: their numbers, and who is found."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.cuda.assembly import assemble
from qcompiler.backends.cuda.kernels import KERNELS
from qcompiler.backends.cuda.kernels.quantizers import (
    ACTIVATIONS,
    FORMATS,
    Activation,
    Kind,
    choose,
    choose_activation,
)
from qcompiler.backends.cuda.settings import settings_of
from qcompiler.job import backends
from qcompiler.spec import QuantSpec, choose_qparams, quantize
from qcompiler.targets import load_target
from qcompiler.weights import read_program
from tests.cuda_floats import by_kernels
from tests.cuda_harness import run_instance, run_sanitized, traffic_of
from tests.test_cuda_backend import decibels, layers
from tests.test_cuda_quantizers import SPECS, TYPES, case, codes_of, memory

OUTS = ("out", "scale", "zero", "sum")


def exactly(x: torch.Tensor, which: Activation) -> torch.Tensor:
    """The activation in float64."""
    wide, functions = x.double(), torch.nn.functional
    match which:
        case "plain":
            return wide
        case "relu":
            return wide.relu()
        case "silu":
            return functions.silu(wide)
        case _:
            return functions.gelu(wide, approximate="tanh" if which == "gelu_tanh" else "none")


def activated_case(x: torch.Tensor, gate: torch.Tensor | None, spec: QuantSpec, halves: bool) -> dict:
    """Arguments: rows of their own, or x behind its gate in the same rows."""
    given_case, width = case(x, spec), x.shape[1]
    if gate is None:
        return given_case
    if not halves:
        return given_case | {"gate": memory(gate), "gate_stride": width}
    both = memory(torch.cat([gate, x], 1))
    return given_case | {"input": both, "gate": both, "stride": 2 * width, "column": width, "gate_stride": 2 * width}


def as_reals(given_case: dict, rows: int, width: int) -> tuple[dict, np.ndarray]:
    """The same case for reals, and where they will be."""
    out = np.zeros((rows, width), np.float32)
    return {**given_case, "out": out, "out_width": width, "format": FORMATS["real"]}, out


@pytest.mark.parametrize("which", ACTIVATIONS)
@given(
    kind=st.sampled_from(tuple(TYPES)),
    text=st.sampled_from(SPECS),
    rows=st.integers(1, 5),
    width=st.integers(1, 1300),
    seed=st.integers(0, 99),
    layout=st.sampled_from(["alone", "gated", "halves"]),
)
@settings(deadline=None, max_examples=12)
def test_equals_activation_then_codes(
    which: Activation, kind: Kind, text: str, rows: int, width: int, seed: int, layout: str
) -> None:
    torch.manual_seed(seed)
    x, gate = ((torch.randn(rows, width) * 3).to(TYPES[kind]) for _ in range(2))
    gate, spec = None if layout == "alone" else gate, QuantSpec.parse(text)
    wide, wide_gate = x.float(), None if gate is None else gate.float()
    real, found = as_reals(activated_case(wide, wide_gate, spec, layout == "halves"), rows, width)
    run_instance("activate_quantize", choose_activation(which, "f32", width).name, real, ("out",))
    factor = 1.0 if gate is None else gate.double().numpy()
    bound = 2.0**-19 * np.abs(exactly(wide, which).numpy() * factor) + 2.0**-23 * np.abs(factor)
    assert (np.abs(found - exactly(wide, which).numpy() * factor) <= bound).all()
    given_case = activated_case(x, gate, spec, layout == "halves")
    run_instance("activate_quantize", choose_activation(which, kind, width + 31).name, given_case, OUTS)
    values = torch.from_numpy(found)
    scale, zero = choose_qparams(values, spec)
    expected = quantize(values, scale, zero, spec).numpy() + given_case["shift"]
    np.testing.assert_array_equal(codes_of(given_case)[:, :width], expected)
    np.testing.assert_array_equal(codes_of(given_case)[:, width:], 0)


@pytest.mark.parametrize("name", [one.name for one in KERNELS["activate_quantize"].instances if "_f16_" in one.name])
def test_every_width(name: str) -> None:
    which: Activation = next(one for one in reversed(ACTIVATIONS) if f"_{one}_" in name)
    width = int(name.rpartition("_")[2])
    torch.manual_seed(1)
    x, gate = (torch.randn(2, width).half() for _ in range(2))
    given_case = activated_case(x, gate, QuantSpec.parse(SPECS[0]), False)
    run_instance("activate_quantize", name, given_case, OUTS)
    ideal = exactly(x, which) * gate.double()
    codes = (ideal / ideal.abs().amax(1, keepdim=True) * 127).numpy()
    assert np.abs(codes_of(given_case) - codes).max() < 0.501


def test_given_scale() -> None:
    x, gate = torch.randn(3, 40), torch.randn(3, 40)
    spec = QuantSpec.parse("uint8 asym block=(-1,-1) scale=f32")
    given_case = activated_case(x, gate, spec, True) | {"fixed_scale": 0.03, "fixed_zero": 100.0}
    run_instance("activate_quantize", choose_activation("relu", "f32", 64).name, given_case, ("out",))
    scale, zero = torch.full((1, 1), 0.03), torch.full((1, 1), 100.0)
    np.testing.assert_array_equal(codes_of(given_case)[:, :40], quantize(x.relu() * gate, scale, zero, spec) - 128)


@pytest.mark.parametrize("width", [1024, 4096])
def test_reads_and_writes_whole_sectors_once(width: int) -> None:
    x, gate = (torch.randn(4, width).half() for _ in range(2))
    given_case = activated_case(x, gate, QuantSpec.parse(SPECS[0]), True)
    traffic = traffic_of("activate_quantize", choose_activation("silu", "f16", width).name, given_case)
    assert traffic.global_sectors == traffic.global_ideal == 4 * width * 5 // 32
    assert traffic.shared_wavefronts == traffic.shared_ideal


def test_nothing_is_touched_beyond_arrays() -> None:
    x, gate = (torch.randn(5, 1203).half() for _ in range(2))
    given_case = activated_case(x, gate, QuantSpec.parse(SPECS[1]), True)
    name = choose_activation("gelu", "f16", 1216).name
    found = run_sanitized("activate_quantize", name, given_case, OUTS)
    run_instance("activate_quantize", name, given_case, OUTS)
    for out in OUTS:
        np.testing.assert_array_equal(found[out], given_case[out])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("width", [203, 512])
def test_norm_yields_its_reals_besides(kind: Kind, width: int) -> None:
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(1)).to(TYPES[kind])
    norm = {"weight": np.linspace(0.5, 2, width, dtype=np.float32), "eps": 1e-5}
    given_case = case(x, QuantSpec.parse(SPECS[0])) | norm
    real, expected = as_reals(case(x.float(), QuantSpec.parse(SPECS[0])) | norm, 3, width)
    run_instance("norm_quantize", choose(KERNELS["norm_quantize"], "f32", width).name, real, ("out",))
    alone = given_case | {"out": given_case["out"].copy()}
    name = choose(KERNELS["norm_quantize"], kind, given_case["out_width"]).name
    run_instance("norm_quantize", name, alone, ("out",))
    given_case["normed"] = memory(torch.full_like(x, torch.nan))
    run_instance("norm_quantize", name, given_case, ("out", "normed"))
    np.testing.assert_array_equal(given_case["out"], alone["out"])
    np.testing.assert_array_equal(given_case["normed"], memory(torch.from_numpy(expected).to(TYPES[kind])))


WIDTH = 48


class Norms(torch.nn.Module):
    """A decoder's halves: a norm in front of three layers, and one whose result is a residual too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.RMSNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.query, self.key, self.mix, self.last = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        x = self.second(x + self.mix(torch.sin(self.query(y)) + self.key(y)))
        return x + self.last(x)


class Gated(torch.nn.Module):
    """A gated feed-forward layer with gates of its own, or in the same rows."""

    def __init__(self, halves: bool, activation: torch.nn.Module) -> None:
        super().__init__()
        self.halves, self.activation = halves, activation
        self.up, self.gate = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(WIDTH, 2 * WIDTH)
        self.down = torch.nn.Linear(WIDTH if halves else 2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.up(x).chunk(2, -1) if self.halves else (self.up(x), self.gate(x))
        return self.down(second * self.activation(first))


class Twice(torch.nn.Module):
    """A layer behind a sum and an activation that others read too, or not, called twice."""

    def __init__(self, read: bool) -> None:
        super().__init__()
        self.read, self.layer = read, torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            y = torch.nn.functional.silu(x * 2)
            x = self.layer(y) + (y if self.read else 1)
        return x


def compiled(module: torch.nn.Module, recipe: str, compute: str = "float32") -> Artifact:
    torch.manual_seed(2)
    for value in module.parameters():
        torch.nn.init.normal_(value, 0.1, 0.3)
    target = f"cuda{{device=emulation, build=later, compute={compute}, architectures=[87]}}"
    return qcompiler.compile(module.eval(), target, calibration=[(inputs(),)], recipe=recipe, keep_float=False)


def inputs() -> torch.Tensor:
    return torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(3))


def meanings(artifact: Artifact) -> list[str]:
    return [layer.meaning for layer in layers(artifact)]


def operators(artifact: Artifact) -> set[str]:
    """What is left between the layers."""
    program = read_program(Path(artifact.folder) / "cuda" / "model")
    return {program.op(node) for node in program.nodes} - {"qc.kernel", "getitem"}


@pytest.mark.parametrize(("recipe", "codes"), [("w8a8_dynamic", "int8 sym per row"), ("w8a8", "uint8 asym static")])
def test_norms_are_taken_into_quantizers(recipe: str, codes: str) -> None:
    artifact, x = compiled(Norms(), recipe), inputs()
    found = meanings(artifact)
    assert found[0] == f"codes rms norm {codes}"
    assert f"codes layer norm {codes}" in found
    assert [one for one in found if one.startswith("linear")][-1] == f"linear {codes} x int8 [48, 48] + residual"
    kernels = [layer.kernels[0] for layer in layers(artifact)]
    assert kernels == ["norm_quantize", "gemv_i8", "gemv_i8", "quantize_rows", "norm_quantize", "gemv_i8"]
    assert operators(artifact).isdisjoint({"aten.rms_norm", "aten.layer_norm"})
    assert decibels(artifact(x), by_kernels(artifact, x)) == math.inf
    # Another order of sums moves a norm by its last place, and now and then a code next to a tie by one.
    assert decibels(artifact(x), artifact.simulate(x)) > 45


@pytest.mark.parametrize(("name", "halves"), [("silu", False), ("gelu", True), ("gelu by tanh", False)])
def test_gated_products_are_taken_into_quantizers(name: str, halves: bool) -> None:
    kinds = {"silu": torch.nn.SiLU(), "gelu": torch.nn.GELU(), "gelu by tanh": torch.nn.GELU(approximate="tanh")}
    artifact, x = compiled(Gated(halves, kinds[name]), "w8a8_dynamic"), inputs()
    assert meanings(artifact)[-1].startswith(f"linear gated {name} int8 sym per row x int8")
    assert [port.width for port in layers(artifact)[-1].inputs] == [2 * WIDTH] * (1 if halves else 2)
    assert operators(artifact).isdisjoint({"aten.mul.Tensor", "aten.silu", "aten.gelu", "aten.split_with_sizes"})
    assert decibels(artifact(x), by_kernels(artifact, x)) == math.inf


def test_activation_that_no_layer_yields_is_taken() -> None:
    artifact, x = compiled(Twice(read=False), "w8a8_dynamic"), inputs()
    assert [one.partition(" x ")[0] for one in meanings(artifact)] == ["linear silu int8 sym per row"] * 2
    assert decibels(artifact(x), by_kernels(artifact, x)) == math.inf


def test_activation_that_others_read_stays() -> None:
    artifact = compiled(Twice(read=True), "w8a8_dynamic")
    assert [one.partition(" x ")[0] for one in meanings(artifact)] == ["linear int8 sym per row"] * 2
    assert "aten.silu" in operators(artifact)


class Scaled(torch.nn.Module):
    """Channels are multiplied by numbers of their own in front of a layer."""

    def __init__(self, activation: torch.nn.Module) -> None:
        super().__init__()
        self.activation, self.layer = activation, torch.nn.Linear(WIDTH, WIDTH)
        self.scale = torch.nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.activation(x) * self.scale)


@pytest.mark.parametrize(("name", "module"), [("scaled gelu", torch.nn.GELU()), ("scaled", torch.nn.Tanh())])
def test_factors_of_channels_are_taken_into_quantizers(name: str, module: torch.nn.Module) -> None:
    artifact, x = compiled(Scaled(module), "w8a8_dynamic"), inputs()
    assert [one.partition(" x ")[0] for one in meanings(artifact)] == [f"linear {name} int8 sym per row"]
    assert "aten.mul.Tensor" not in operators(artifact)
    assert decibels(artifact(x), by_kernels(artifact, x)) == math.inf


@pytest.mark.parametrize("module", [Norms(), Gated(True, torch.nn.SiLU())], ids=["norms", "gated"])
def test_half_precision_loses_no_more_than_it_rounds(module: torch.nn.Module) -> None:
    artifact, x = compiled(module, "w8a8_dynamic", "float16"), inputs()
    assert decibels(artifact(x), artifact.simulate(x)) > 40


NORM_OF_BOTH_AXES = """
spec @w = int8 sym block=(1,-1) scale=f32
spec @a = int8 sym block=(1,-1) scale=f32 dynamic
program @both stage=lowered {
  input %x : f32[3,48]
  param %w : @w[8,48] = zeros()
  param %ws : f32[8,1] = ones()
  %norm = aten.layer_norm %x, [3, 48], none, none, 1e-05 : f32[3,48]
  %s, %z = qc.choose_qparams %norm {spec=@a} : (f32[3,1], f32[3,1])
  %q = qc.quantize %norm, %s, none : @a[3,48]
  %y = qc.kernel "linear_dynamic", [%q, %s, none], [%w, %ws, none], none {op="aten.linear"} : f32[3,8]
  return %y
}
"""


def test_norm_of_more_than_rows_stays() -> None:
    program = qcompiler.parse(NORM_OF_BOTH_AXES)
    node = program.node("w")
    program.set_param(node, torch.ones(8, 48), program.tensor_type(node).spec)
    assembled = assemble(program, settings_of(load_target("cuda{architectures=[80]}", backends())))
    assert assembled.layers[0].kernels[0] == "quantize_rows"
    assert "aten.layer_norm" in {assembled.program.op(node) for node in assembled.program.nodes}
