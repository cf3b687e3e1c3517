"""Models on CUDA kernels, run in emulation: what ships computes what its kernels mean, in every kind of layer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.cuda.assembly import assemble
from qcompiler.backends.cuda.backend import CudaBackend
from qcompiler.backends.cuda.driver import Emulated
from qcompiler.backends.cuda.execution import COUNTERS, digest_of, run_layer
from qcompiler.backends.cuda.layer import Layer
from qcompiler.backends.cuda.library import read_library
from qcompiler.backends.cuda.module import module_of
from qcompiler.backends.cuda.settings import settings_of
from qcompiler.backends.reference import MEANINGS
from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.ir.interp import evaluate
from qcompiler.job import backends
from qcompiler.report import Report
from qcompiler.spec import parse_scheme
from qcompiler.targets import load_target
from qcompiler.weights import read_program
from tests.cuda_floats import by_kernels
from tests.cuda_models import activations, compile_block, compiled

NUMBERS = {
    "w4a8": ("int4 sym channel scale=f32", "int8 sym token scale=f32 dynamic"),
    "w4a4": ("int4 sym channel scale=f32", "int4 sym token scale=f32 dynamic"),
}
NO_DEVICE = not torch.cuda.is_available()


def recipe(name: str, folder: Path) -> Path:
    """A recipe for numbers that have no short name."""
    weight, activation = NUMBERS[name]
    path = folder / f"{name}.yaml"
    numbers = f"weight: {weight}, activation: {activation}"
    path.write_text(f"name: {name}\npasses:\n  - assign: {{{numbers}}}\n  - apply_plan\n  - nearest\n")
    return path


def layers(artifact: Artifact) -> tuple[Layer, ...]:
    return read_library(artifact.folder / "cuda").layers


def decibels(found: object, expected: object) -> float:
    """Of the signal over the difference; infinite where there is none."""
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    noise = (found.double() - expected.double()).square().mean()
    assert torch.isfinite(noise)
    return float(10 * torch.log10(expected.double().square().mean() / noise))


@pytest.mark.parametrize("name", ["w8a8", "w8a8_dynamic"])
@pytest.mark.parametrize("shape", [(5, 2), (1, 1)], ids=["many rows", "one row"])
def test_block_of_eight_bits_equals_its_meaning(name: str, shape: tuple[int, int]) -> None:
    artifact, x = compiled(name), activations(*shape)
    assert decibels(artifact(x), by_kernels(artifact, x)) == math.inf


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_block_of_four_bits_equals_its_meaning(name: str, tmp_path: Path) -> None:
    artifact, x = compiled(recipe(name, tmp_path)), activations()
    assert decibels(artifact(x), by_kernels(artifact, x)) == math.inf


def test_packed_weights_are_within_the_roundings_of_half_precision() -> None:
    artifact, x = compiled("w4a16g32"), activations()
    # Activations, scales and products of scale and code are rounded to 11 bits.
    assert decibels(artifact(x), artifact.simulate(x)) > 60


@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
def test_model_between_layers_computes_in_the_floats_asked_for(compute: str) -> None:
    artifact, x = compiled("w8a8_dynamic", compute), activations()
    found = artifact(x)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    assert decibels(found, artifact.simulate(x)) > {"float16": 45, "bfloat16": 30}[compute]
    assert {port.element for layer in layers(artifact) for port in layer.inputs} >= {compute}


def test_codes_that_several_layers_read_are_found_once() -> None:
    kinds = [layer.meaning.split()[0] for layer in layers(compiled("w8a8_dynamic"))]
    assert kinds == ["codes", "linear", "linear", "linear", "linear", "linear", "linear"]
    readers = [layer for layer in layers(compiled("w8a8_dynamic")) if layer.inputs[0].element == "int8"]
    assert [layer.module for layer in readers] == ["query", "key", "value"]


def test_saved_artifact_runs_again(tmp_path: Path) -> None:
    artifact, x = compiled("w8a8"), activations()
    artifact.save(tmp_path / "saved")
    assert decibels(qcompiler.load(tmp_path / "saved")(x), artifact(x)) == math.inf


def test_report_names_kernels_and_files() -> None:
    report: Report = compiled("w8a8").report
    assert {layer.realised for layer in report.layers} == {
        "gemv_i8 + gemm_i8",
        "quantize_rows + gemv_i8 + gemm_i8",
        "norm_quantize + gemv_i8 + gemm_i8",
    }
    assert not report.fallbacks
    assert any("Block.h: 6 layers by gemm_i8, gemv_i8, norm_quantize, quantize_rows" in note for note in report.notes)


def test_layers_are_operators_of_torch() -> None:
    folder = compiled("w8a8").folder / "cuda"
    module = module_of(read_program(folder / "model"), folder)
    layer = layers(compiled("w8a8"))[-1]
    weights = [torch.zeros(one.shape, dtype=getattr(torch, one.element)) for one in layer.weights.values()]
    weights.append(torch.zeros(1, dtype=torch.int32))
    inputs = [torch.randn(2, 3, port.width) for port in layer.inputs]
    arguments = (inputs, weights, str(folder), digest_of(folder), layer.name)
    operator = torch.ops.qcompiler.cuda_layer.default
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
    calls = [node for node in module.graph.nodes if node.target is operator]
    assert len(calls) == 7
    assert COUNTERS in dict(module.named_buffers())


@pytest.mark.skipif(not NO_DEVICE, reason="there is a device")
def test_without_a_device_results_are_simulated() -> None:
    artifact = compile_block("cuda{build=later, architectures=[90]}", "w8a8_dynamic")
    assert any("torch finds no CUDA device" in warning for warning in artifact.report.warnings)
    with pytest.raises(UnsupportedError, match="torch finds no CUDA device") as caught:
        artifact(activations())
    assert "device=emulation" in caught.value.mend


def test_jetson_yields_onnx_and_kernels() -> None:
    target = replace(load_target("jetson", backends()), companions=("orin{build=later, device=emulation}",))
    artifact = compile_block(target, "w8a8")
    files = {str(path.relative_to(artifact.folder)) for path in artifact.folder.rglob("*") if path.is_file()}
    expected = {"Block.h", "Block.c", "plan.json", "weights.safetensors", "README.md", "kernels/sm_87.cu"}
    assert {"model.onnx", "plan.json", "report.json"} | {f"cuda/{name}" for name in expected} <= files
    assert any("cuda/Block.h" in note for note in artifact.report.notes)
    x = activations()
    found = CudaBackend().runner(artifact.folder)([x])[0]
    assert decibels(found, artifact(x)) > 40


def test_jetson_has_the_kernels_as_companion() -> None:
    target = load_target("jetson", backends())
    (companion,) = (load_target(name, backends()) for name in target.companions)
    assert settings_of(companion).architectures == (87,)
    assert {kernel.name for kernel in companion.kernels} >= {"linear", "linear_weight_only"}


def test_layers_that_no_kernel_takes_are_refused_by_name() -> None:
    target = load_target("hopper", backends())
    refused = {(32776, "fp8"): "its rows of 32776 are wider than 32768", (12, "w4a16"): "not a multiple of 8"}
    for (inputs, scheme), why in refused.items():
        program = qcompiler.trace(torch.nn.Linear(inputs, 4), torch.randn(2, inputs))
        (node,) = [node for node in program.nodes if program.op(node) == "aten.linear"]
        assert why in str(target.choose(program, node, parse_scheme(scheme)))


@pytest.mark.parametrize("numbers", [NUMBERS["w4a4"], None], ids=["w4a4", "w4a16"])
def test_low_rank_branch_is_taken_into_the_product(numbers: tuple[str, str] | None, tmp_path: Path) -> None:
    asked = "scheme: w4a16g32" if numbers is None else f"weight: {numbers[0]}, activation: {numbers[1]}"
    path = tmp_path / "branches.yaml"
    branch = "svdquant: {rank: 16, iterations: 0, smooth: false}"
    path.write_text(f"name: branches\npasses:\n  - assign: {{{asked}}}\n  - {branch}\n  - apply_plan\n  - nearest\n")
    artifact, x = compiled(path), activations()
    products = [layer for layer in layers(artifact) if layer.meaning.startswith("linear")]
    assert all("+ rank 16" in layer.meaning and 16 in {port.width for port in layer.inputs} for layer in products)
    assert products[-1].meaning.endswith("+ rank 16 + residual")
    # The factors of the branch meet in half precision.
    assert decibels(artifact(x), artifact.simulate(x)) > 50


def test_change_of_basis_is_taken_into_the_quantizer(tmp_path: Path) -> None:
    numbers = "weight: int8 sym channel scale=f32, activation: int8 sym token scale=f32 dynamic"
    path = tmp_path / "rotated.yaml"
    path.write_text(f"name: rotated\npasses:\n  - assign: {{{numbers}}}\n  - rotate\n  - apply_plan\n  - nearest\n")
    artifact, x = compiled(path), activations()
    assert "hadamard(128) int8" in layers(artifact)[-1].meaning
    assert layers(artifact)[-1].kernels == ("hadamard", "gemv_i8", "gemm_i8")
    # Sums of the product have an order of their own, so that codes next to ties may differ.
    assert decibels(artifact(x), artifact.simulate(x)) > 45


KRONECKER = """
spec @w = int8 sym block=(1,-1) scale=f32
spec @a = int8 sym block=(1,-1) scale=f32 dynamic
program @turned stage=lowered {
  input %x : f32[3,48]
  param %left : f32[3,3] = normal(seed=1)
  param %right : f32[16,16] = normal(seed=2)
  param %w : @w[8,48] = zeros()
  param %ws : f32[8,1] = ones()
  %turned = qc.kronecker %x, %left, %right : f32[3,48]
  %s, %z = qc.choose_qparams %turned {spec=@a} : (f32[3,1], f32[3,1])
  %q = qc.quantize %turned, %s, none : @a[3,48]
  %y = qc.kernel "linear_dynamic", [%q, %s, none], [%w, %ws, none], none {op="aten.linear"} : f32[3,8]
  return %y
}
"""


def test_kronecker_product_is_taken_into_the_quantizer() -> None:
    program = qcompiler.parse(KRONECKER)
    node = program.node("w")
    program.set_param(node, torch.arange(8.0 * 48).reshape(8, 48) % 15 - 7, program.tensor_type(node).spec)
    target = load_target("cuda{compute=float16, architectures=[80]}", backends())
    assembled = assemble(program, settings_of(target))
    (layer,) = assembled.layers
    assert layer.kernels == ("kronecker", "gemv_i8", "gemm_i8")
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    weights = [assembled.tensors[f"{layer.name}.{name}"] for name in layer.weights]
    found = run_layer(layer, Emulated(), 80, [x.half()], [*weights, torch.zeros(1, dtype=torch.int32)])[0]
    (expected,) = evaluate(program, [x], kernels=MEANINGS)
    # Factors and the product between them are rounded to half precision, codes are a 127th of a row apart.
    assert decibels(found.float(), expected) > 30


REFUSED = {
    "architectures=[71]": "setting architectures cannot be",
    "architectures=[]": "setting architectures cannot be",
    "compute=float64": "setting compute",
    "pace=fast": "there is no setting pace",
    "architectures=[75], compute=bfloat16": "sm_75 has no bfloat16",
}


@pytest.mark.parametrize("setting", sorted(REFUSED))
def test_wrong_settings_are_named(setting: str) -> None:
    with pytest.raises(SpecError, match=REFUSED[setting].replace("[", r"\[")):
        settings_of(load_target(f"cuda{{{setting}}}", backends()))
