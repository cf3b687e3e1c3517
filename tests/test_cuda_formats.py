"""Weights of small floats, scales of scales and tables on CUDA kernels, in emulation: they equal their meaning."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.cuda.assembly import Assembly, assemble
from qcompiler.backends.cuda.backend import CudaBackend
from qcompiler.backends.cuda.driver import Emulated
from qcompiler.backends.cuda.execution import run_layer
from qcompiler.backends.cuda.library import read_library
from qcompiler.backends.cuda.lower import lower
from qcompiler.backends.cuda.settings import settings_of
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.job import backends
from qcompiler.passes.recipes import Recipe
from qcompiler.targets import load_target

TARGET = "cuda{device=emulation, build=later, compute=float32, architectures=[80]}"
NUMBERS = {
    "nvfp4": ("scheme=nvfp4", "gemm_e2m1"),
    "mxfp4": ("scheme=mxfp4", "gemm_e2m1"),
    "int4 in steps": ("weight=int4 sym group=32 scale=u6 outer=f32", "gemm_w4"),
    "nf3": ("weight=nf3 sym group=32 scale=f16", "gemm_table8"),
    "nf2": ("weight=nf2 sym group=32 scale=f16", "gemm_table4"),
    "ternary": ("weight=ternary sym group=32 scale=f16", "gemm_w2"),
    "binary": ("weight=binary sym group=32 scale=f16", "gemm_w2"),
}
"""What is asked for, and the kernel that computes it."""
DEPTH, COLUMNS = 96, 40


def decibels(found: object, expected: object) -> float:
    """Of the signal over the difference."""
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    noise = (found.double() - expected.double()).square().mean()
    return float(10 * torch.log10(expected.double().square().mean() / noise))


def activations(rows: int) -> torch.Tensor:
    """Numbers that half precision holds."""
    return torch.randn(rows, DEPTH, generator=torch.Generator().manual_seed(rows)).half().float()


@cache
def compiled(*passes: str) -> Artifact:
    """One layer whose rows and groups differ in size a hundredfold."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(DEPTH, COLUMNS)
    with torch.no_grad():
        layer.weight *= torch.logspace(-2, 0, COLUMNS)[:, None] * torch.logspace(0, -1, DEPTH)
    chosen = Recipe.of("formats", passes)
    return qcompiler.compile(layer, TARGET, calibration=[(activations(20),)], recipe=chosen, keep_float=False)


@pytest.mark.parametrize("rows", [1, 20], ids=["one row", "many rows"])
@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_scaled_weights_equal_their_meaning(name: str, rows: int) -> None:
    asked, kernel = NUMBERS[name]
    artifact = compiled(f"assign{{{asked}, activation=float}}", "apply_plan", "nearest")
    (layer,) = read_library(artifact.folder / "cuda").layers
    assert layer.kernels == (kernel,)
    assert not artifact.report.fallbacks
    # Products of codes and inner scales have fewer bits than half precision, and the outer scale comes behind sums;
    # entries of tables are rounded, and so is their product with a scale.
    assert decibels(artifact(activations(rows)), artifact.simulate(activations(rows))) > (
        60 if "table" in kernel else 120
    )


@pytest.mark.parametrize("rows", [1, 20], ids=["one row", "many rows"])
@pytest.mark.parametrize("number", ["ternary sym tensor", "binary sym channel"])
def test_weights_of_few_numbers_are_multiplied_as_integers_of_two_bits(number: str, rows: int) -> None:
    numbers = f"weight={number} scale=f32, activation=int8 sym token scale=f32 dynamic"
    artifact = compiled(f"assign{{{numbers}}}", "apply_plan", "nearest")
    (layer,) = read_library(artifact.folder / "cuda").layers
    assert layer.kernels == ("quantize_rows", "gemv_wna8", "gemm_wna8")
    assert decibels(artifact(activations(rows)), artifact.simulate(activations(rows))) == math.inf


@pytest.mark.parametrize("rows", [1, 20], ids=["one row", "many rows"])
@pytest.mark.parametrize("length", [4, 8])
def test_solved_tables_equal_their_meaning(length: int, rows: int) -> None:
    solver = f"kmeans_vq{{length={length}, entries=48, compensate=false}}"
    artifact = compiled("assign{scheme=w4a16, activation=float}", "apply_plan", solver)
    assert [layer.realised for layer in artifact.report.layers] == [f"gemm_codebook8d{length}"]
    # The factors of rows come behind sums where there is one for all inputs, otherwise weights are rounded.
    assert decibels(artifact(activations(rows)), artifact.simulate(activations(rows))) > 60


def test_layers_that_no_kernel_takes_are_reported() -> None:
    solver = "kmeans_vq{length=2, entries=48, compensate=false}"
    artifact = compiled("assign{scheme=w4a16, activation=float}", "apply_plan", solver)
    (layer,) = artifact.report.fallbacks
    assert layer.realised == "float"
    assert "unpacked when it runs, from the parts that kmeans_vq found" in layer.reason


def looked_up(length: int, entries: int, summands: int = 1) -> tuple[Program, Assembly]:
    """A layer whose weight is put together from tables, and its library."""
    program = Program(stage=Stage.LOWERED)
    x = program.add_input("x", TensorType(torch.float32, (5, DEPTH)))
    b = program.append()
    weight = looked_up_once(b, length, entries, 0)
    for index in range(1, summands):
        weight = b.call("aten.add.Tensor", weight, looked_up_once(b, length, entries, index))
    program.set_outputs([b.call("aten.linear", x, weight, b.param("bias", torch.linspace(-1, 1, COLUMNS)))])
    target = load_target(TARGET, backends())
    return program, assemble(lower(program, target), settings_of(target))


def looked_up_once(b: Builder, length: int, entries: int, seed: int) -> Node:
    """Entries of consecutive vectors of a row."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, entries, (COLUMNS * DEPTH // length,), generator=generator)
    table = b.param(f"table{seed}", 2.0**40 * torch.randn(entries, length, generator=generator).half().float())
    found = b.call("aten.embedding", table, b.param(f"indices{seed}", indices))
    return b.call("aten.reshape", found, [COLUMNS, DEPTH])


@pytest.mark.parametrize(
    ("length", "entries", "summands", "kernel"),
    [
        (1, 13, 1, "gemm_table16"),
        (1, 7, 1, "gemm_table8"),
        (1, 4, 1, "gemm_table4"),
        (4, 256, 1, "gemm_codebook8d4"),
        (8, 100, 1, "gemm_codebook8d8"),
        (8, 300, 1, "gemm_codebook16d8"),
        (4, 99, 2, "gemm_codebook8d4x2"),
        (8, 256, 2, "gemm_codebook8d8x2"),
        (8, 300, 2, "gemm_codebook16d8x2"),
        (8, 256, 3, "gemm_codebook8d8x4"),
    ],
)
def test_tables_are_taken_by_the_kernel_of_their_size(length: int, entries: int, summands: int, kernel: str) -> None:
    program, assembled = looked_up(length, entries, summands)
    (layer,) = assembled.layers
    assert layer.kernels == (kernel,)
    x = activations(5)
    weights = [assembled.tensors[f"{layer.name}.{name}"] for name in layer.weights]
    found = run_layer(layer, Emulated(), 80, [x.half()], [*weights, torch.zeros(1, dtype=torch.int32)])[0]
    # Sums of entries are rounded to half precision.
    assert decibels(found, evaluate(program, [x], widen=True)[0]) > (120 if summands == 1 else 65)


@pytest.mark.parametrize(
    ("length", "entries", "summands"), [(1, 16, 2), (4, 300, 1), (2, 16, 1)], ids=["sum", "entries", "length"]
)
def test_tables_of_no_kernel_stay_as_they_are(length: int, entries: int, summands: int) -> None:
    _, assembled = looked_up(length, entries, summands)
    assert not assembled.layers


LEFT = """
spec @w = int5 sym block=(1,2) scale=f32
spec @a = uint16 asym block=(1,-1) scale=f32 dynamic
program @left stage=lowered {
  input %x : f32[3,4]
  param %w : @w[8,4] = zeros()
  param %ws : f32[8,2] = ones()
  %wd = qc.dequantize %w, %ws, none : f32[8,4]
  %s, %z = qc.choose_qparams %x {spec=@a} : (f32[3,1], f32[3,1])
  %q = qc.quantize %x, %s, %z : @a[3,4]
  %d = qc.dequantize %q, %s, %z : f32[3,4]
  %y = aten.linear %d, %wd, none : f32[3,8]
  return %y
}
"""


@pytest.mark.parametrize("compute", ["float32", "float16"])
def test_numbers_without_a_kernel_are_computed_as_they_are(compute: str, tmp_path: Path) -> None:
    program = qcompiler.parse(LEFT)
    codes = torch.arange(32.0).reshape(8, 4) % 31 - 15
    program.set_param(program.node("w"), codes, program.tensor_type(program.node("w")).spec)
    target = load_target(TARGET.replace("float32", compute), backends())
    CudaBackend().emit(program, target, tmp_path)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).half().float()
    near = {"float32": 0.0, "float16": 1e-3}[compute]
    (found,), (expected,) = CudaBackend().runner(tmp_path)([x]), evaluate(program, [x])
    torch.testing.assert_close(found, expected, rtol=near, atol=50 * near)
