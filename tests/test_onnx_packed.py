"""Weights in any format lie packed in the file, and onnxruntime unpacks the very numbers of the spec."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcompiler
from qcompiler.backends.onnx.whole import narrowed
from qcompiler.backends.onnx.writer import save_model, write_model
from qcompiler.formats import Codebook, Integer
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.ir.types import DTYPE_NAMES, TensorType
from qcompiler.passes.recipes import Recipe
from qcompiler.spec import (
    Level,
    Number,
    Parts,
    QuantSpec,
    SharedTable,
    bits_per_element,
    choose_qparams,
    dequantize,
    quantize,
)
from qcompiler.target import Accept
from tests.onnx_tools import F32, build, kinds, run_onnx, typed

# A file holds tables of values, shifts and shapes once, whatever the weight's size.
OVERHEAD = 1800
SPECS = [
    "binary sym block=(1,16) scale=bf16",
    "ternary sym block=(1,16) scale=f16",
    "int1 sym block=(1,-1) scale=f32",
    "int2 sym block=(1,16) scale=f32",
    "int3 sym block=(1,-1) scale=f32",
    "uint3 asym block=(1,8) scale=f16",
    "int5 sym block=(1,16) scale=f32",
    "uint6 asym block=(-1,-1) scale=f32",
    "int7 sym block=(3,16) scale=f32",
    "int8 sym block=(1,32) scale=e8m0",
    "int4 sym block=(1,16) scale=u6 block=(1,64) scale=f16",
    "uint4 asym block=(2,16) scale=f16",
    "fp6e2m3 sym block=(1,32) scale=e8m0",
    "fp6e3m2 sym block=(1,32) scale=e8m0",
    "fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32",
    "fp4e3m0 sym block=(1,16) scale=f16",
    "fp8e3m4 sym block=(1,-1) scale=f32",
    "fp8e4m3 sym block=(1,32) scale=e8m0",
    "nf4 sym block=(1,64) scale=f32",
    "nf3 sym block=(1,64) scale=f32",
    "bnbfp4 sym block=(1,64) scale=f32",
    "log2_4 sym block=(1,16) scale=f16",
    "ulog2_4 sym block=(1,16) scale=f16",
    "pow4c0.5 sym block=(1,16) scale=f16",
    "twinlog4c10.0 sym block=(1,16) scale=f16",
    "int4 sym block=(1,4) scale=f32 segments=20*int2,12*int3,98*int4",
]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def added(spec: QuantSpec, shape: tuple[int, ...], table: Tensor | None = None, dtype: torch.dtype = F32) -> Program:
    """An input plus a weight of this spec; with a table the codes are random indices."""
    if table is None:
        scale, zero = choose_qparams(random(*shape), spec)
        codes = quantize(random(*shape).to(dtype), scale, None if spec.symmetric else zero, spec)
    else:
        zero, scale = None, random(*(int(size) for size in spec.scale_shapes(shape)[0])).abs()
        size = [int(dim) for dim in spec.code_shape(shape)]
        codes = torch.randint(0, 1 << spec.bits, size, generator=torch.Generator().manual_seed(3)).float()

    def body(b: Builder, x: Node) -> Node:
        stored = b.param("w", codes, TensorType(dtype, tuple(codes.shape), spec))
        levels = [b.param("s", item) for item in (scale if isinstance(scale, tuple) else (scale,))]
        scales = levels if len(levels) > 1 else levels[0]
        rest = [None if spec.symmetric or zero is None else b.param("z", zero), spec]
        rest += [] if table is None else [b.param("t", table)]
        return b.call("aten.add.Tensor", x, b.call("qc.dequantize", stored, scales, *rest))

    return build(body, typed(*shape, dtype=dtype), stage=Stage.QUANTIZED)


def assert_equal(program: Program, shape: tuple[int, ...], opset: int = 21, dtype: torch.dtype = F32) -> int:
    """Bit for bit, folded at load or not; the bytes of all initializers."""
    model, x = write_model(program, opset=opset), torch.zeros(shape, dtype=dtype)
    for optimized in (True, False):
        assert torch.equal(run_onnx(model, [x], optimized=optimized)[0], evaluate(program, [x])[0])
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


@pytest.mark.parametrize("text", SPECS)
def test_onnxruntime_unpacks_the_numbers_of_the_spec(text: str) -> None:
    spec, shape = QuantSpec.parse(text), (7, 130)
    size = assert_equal(added(spec, shape), shape)
    assert size <= bits_per_element(spec, shape) * 7 * 130 / 8 + OVERHEAD


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["int1", "ternary", "int3", "uint5", "fp6e2m3", "int7", "nf4"]),
    st.tuples(st.integers(1, 5), st.integers(1, 19)),
    st.sampled_from([13, 17, 21, 25]),
)
def test_odd_sizes_and_older_operator_sets(name: str, shape: tuple[int, int], opset: int) -> None:
    spec = QuantSpec.parse(f"{name} sym block=(2,4) scale=f32")
    assert_equal(added(spec, shape), shape, opset)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("text", ["nf4 sym block=(1,8) scale=f32", "uint3 asym block=(1,8) scale=f16"])
def test_other_element_types_are_rounded_once(text: str, dtype: torch.dtype) -> None:
    assert_equal(added(QuantSpec.parse(text), (3, 20), dtype=dtype), (3, 20), dtype=dtype)


@pytest.mark.parametrize(
    ("bits", "dimension", "block", "along"),
    [(4, 1, (-1, -1), -1), (3, 1, (2, -1), -1), (5, 4, (-1, -1), -1), (10, 2, (-1, -1), 0), (6, 2, (2, 10), 0)],
)
def test_codebooks_keep_indices_and_tables_small(bits: int, dimension: int, block: tuple[int, int], along: int) -> None:
    shape, stored = (8, 40), "f16"
    spec = QuantSpec(
        Codebook(bits, dimension), (Level((1, -1)),), False, Parts(SharedTable(block, stored), along=along)
    )
    wanted = spec.table_shape(shape)
    assert wanted is not None
    table = random(*(int(size) for size in wanted)).half().float()
    size = assert_equal(added(spec, shape, table), shape)
    assert size <= bits_per_element(spec, shape) * math.prod(shape) / 8 + OVERHEAD


def test_a_table_of_bytes_is_stored_as_bytes() -> None:
    spec = QuantSpec(Codebook(8), (Level((-1, -1)),), False, Parts(SharedTable((-1, -1), "i8")))
    table = torch.randint(-127, 128, (1, 1, 256)) / 127
    assert assert_equal(added(spec, (6, 9), table), (6, 9)) < 256 + 54 + 100


def test_what_is_no_number_of_the_stored_scale_stays_float() -> None:
    spec = QuantSpec.parse("int3 sym block=(1,4) scale=e4m3")
    program = added(spec, (6, 30))
    (scale,) = (node for node in program.param_nodes if node.target == "s")
    program.set_param(scale, program.param(scale) * 1.01)
    assert_equal(program, (6, 30))


@pytest.mark.parametrize(
    "values", [range(3, 900, 9), [300, 2, 70000] * 40, [-1, 5] * 40, range(1 << 33, (1 << 33) + 99)]
)
def test_whole_numbers_are_stored_narrow(values: object) -> None:
    places = torch.tensor(list(values))  # pyright: ignore[reportArgumentType, reportCallIssue]
    program = build(
        lambda b, x: b.call("aten.add.Tensor", x, b.param("p", places)), typed(len(places), dtype=torch.int64)
    )
    assert_equal(program, (len(places),), dtype=torch.int64)
    assert narrowed(places.numpy()).nbytes <= places.numpy().nbytes


def test_rising_places_are_stored_as_steps() -> None:
    assert narrowed(np.arange(0, 90000, 200)).dtype == np.uint8


def test_what_puts_a_weight_together_is_not_left_to_every_run() -> None:
    """Two integer planes that a sum joins: runtimes fold arithmetic on constants, and never DequantizeLinear."""
    spec = QuantSpec.parse("int8 sym block=(1,-1) scale=f32")

    def body(b: Builder, x: Node) -> Node:
        planes = []
        for at in range(2):
            codes = b.param(f"w{at}", torch.ones(4, 6), TensorType(F32, (4, 6), spec))
            planes.append(b.call("qc.dequantize", codes, b.param(f"s{at}", torch.ones(4, 1)), None, spec))
        return b.call("aten.linear", x, b.call("aten.add.Tensor", *planes))

    assert "DequantizeLinear" not in kinds(write_model(build(body, typed(2, 6), stage=Stage.QUANTIZED)))


class Small(nn.Module):
    """A convolution, a transposed one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(torch.relu(self.conv(x))).mean((2, 3)))


def compiled(scheme: str, target: str, dtype: torch.dtype = F32) -> qcompiler.Artifact:
    torch.manual_seed(1)
    recipe = Recipe.of("test", [f"assign{{scheme={scheme}}}", "apply_plan", "calibrate", "nearest"])
    x = torch.randn(4, 3, 6, 6).to(dtype)
    return qcompiler.compile(Small().eval().to(dtype), target, calibration=[(x,)], recipe=recipe)


def test_layers_without_a_kernel_are_stored_packed_and_the_audit_says_so() -> None:
    stored, simulated, x = compiled("nf4", "onnxruntime"), compiled("nf4", "simulation"), torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(stored(x), simulated(x))
    assert {layer.kernel for layer in stored.report.layers} == {"stored", "stored_transposed"}
    assert all(layer.realised.endswith("unpacked at load") for layer in stored.report.layers)
    assert not stored.report.fallbacks


def test_another_format_of_the_same_width_is_no_answer() -> None:
    number = Number.parse("ternary sym group=128 scale=f16")
    assert Accept.parse("uint2 asym group=128").resolve(number) is None
    assert Accept.parse("ternary sym group=128").resolve(number) == number


@pytest.mark.parametrize(("scheme", "dtype"), [("w8a8", torch.float16), ("nf4", torch.bfloat16)])
def test_half_precision_survives_the_artefact(tmp_path: Path, dtype: torch.dtype, scheme: str) -> None:
    artifact, x = compiled(scheme, "simulation", dtype).save(tmp_path / "a"), torch.randn(2, 3, 6, 6).to(dtype)
    again = qcompiler.load(tmp_path / "a")
    torch.testing.assert_close(again(x), artifact(x), rtol=0, atol=0)
    assert f"{DTYPE_NAMES[dtype]}@q" in str(again.program)


def test_the_file_grows_by_the_width_of_the_codes(tmp_path: Path) -> None:
    sizes = {}
    for bits in (1, 2, 3, 5, 6, 7):
        spec = QuantSpec(Integer(bits, signed=True), (Level((-1, -1)),))
        save_model(write_model(added(spec, (64, 512))), tmp_path / "model.onnx")
        sizes[bits] = (tmp_path / "model.onnx").stat().st_size - bits * 64 * 512 // 8
    assert max(sizes.values()) < 3500
    assert dequantize(torch.zeros(1, 1), torch.ones(1, 1), None, spec) == 0
