"""Quantize and dequantize: the written model rounds, saturates and stores bit for bit as the interpreter says."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.onnx.writer import write_model
from qcompiler.errors import UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Stage
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec, choose_qparams
from tests.onnx_tools import (
    F32,
    Body,
    build,
    kinds,
    run_onnx,
    typed,
)


def fake_quantized(spec: QuantSpec, scale: torch.Tensor, zero: torch.Tensor | None) -> Body:
    def body(b: Builder, x: Node) -> Node:
        nodes = [b.param("scale", scale), None if zero is None else b.param("zero", zero), spec]
        return b.call("qc.dequantize", b.call("qc.quantize", x, *nodes), *nodes)

    return body


RUN_TIME_SPECS = [
    "uint8 asym block=(-1,-1) scale=f32",
    "int8 sym block=(-1,-1) scale=f32",
    "int8 asym block=(-1,-1) scale=f32",
    "int8n sym block=(-1,-1) scale=f32",
    "int8 sym block=(1,-1) scale=f32",
    "uint8 asym block=(-1,1) scale=f32",
    "int8 sym block=(1,8) scale=f32",
    "int8 sym block=(1,1) scale=f32",
    "int16 sym block=(-1,-1) scale=f32",
    "uint16 asym block=(-1,-1) scale=f32",
    "int4 sym block=(-1,-1) scale=f32",
    "uint4 asym block=(-1,-1) scale=f32",
    "uint3 asym block=(1,-1) scale=f32",
    "int2 sym block=(-1,-1) scale=f32",
    "int6 asym block=(-1,1) scale=f32",
    "fp8e4m3 sym block=(-1,-1) scale=f32",
]


@pytest.mark.parametrize("text", RUN_TIME_SPECS)
def test_run_time_quantization_is_bit_exact(text: str) -> None:
    spec = QuantSpec.parse(text)
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(3)) * 3 + 0.3
    scale, zero = choose_qparams(x * 0.7, spec)
    assert isinstance(scale, torch.Tensor)
    program = build(fake_quantized(spec, scale, None if spec.symmetric else zero), typed(6, 16), stage=Stage.QUANTIZED)
    (got,) = run_onnx(write_model(program), [x])
    assert torch.equal(got, evaluate(program, [x])[0])


STORED_SPECS = [
    "int8 sym block=(1,-1) scale=f32",
    "int8 sym block=(-1,-1) scale=f32",
    "int4 sym block=(1,16) scale=f32",
    "uint4 asym block=(1,16) scale=f32",
    "uint3 asym block=(1,16) scale=f32",
    "int2 sym block=(1,16) scale=f32",
    "uint2 asym block=(1,-1) scale=f32",
]


@pytest.mark.parametrize("as_param", [True, False], ids=["codes", "quantize of weights"])
@pytest.mark.parametrize("text", STORED_SPECS)
def test_weights_are_stored_as_integers_and_turned_for_linear(text: str, as_param: bool) -> None:
    spec = QuantSpec.parse(text)
    weight = torch.randn(12, 32, generator=torch.Generator().manual_seed(4))
    scale, zero = choose_qparams(weight, spec)
    assert isinstance(scale, torch.Tensor)

    def body(b: Builder, x: Node) -> Node:
        qparams = [b.param("s", scale), None if spec.symmetric else b.param("z", zero), spec]
        if as_param:
            codes = ops.quantize(weight, scale, None if spec.symmetric else zero, spec)
            stored = b.param("w", codes, TensorType(F32, (12, 32), spec))
        else:
            stored = b.call("qc.quantize", b.param("w", weight), *qparams)
        return b.call("aten.linear", x, b.call("qc.dequantize", stored, *qparams))

    program = build(body, typed("s0", 3, 32), stage=Stage.QUANTIZED)
    model = write_model(program)
    x = torch.randn(2, 3, 32)
    torch.testing.assert_close(run_onnx(model, [x], optimized=False), evaluate(program, [x]), rtol=1e-5, atol=1e-5)
    sizes = [value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value]
    assert max(sizes) == 384 * spec.bits // 8
    assert "Transpose" not in kinds(model)
    assert "QuantizeLinear" not in kinds(model)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("leading", [(5,), ("s0", 3), ("s0", "s1", 2)], ids=["matrix", "rank 3", "rank 4"])
@pytest.mark.parametrize("text", STORED_SPECS)
def test_linears_over_dequantized_weights_keep_float_activations(
    text: str, leading: tuple[int | str, ...], biased: bool
) -> None:
    spec = QuantSpec.parse(text)
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(5))
    scale, zero = choose_qparams(weight, spec)
    assert isinstance(scale, torch.Tensor)
    codes = ops.quantize(weight, scale, None if spec.symmetric else zero, spec)

    def body(b: Builder, x: Node) -> Node:
        stored = b.param("w", codes, TensorType(F32, (24, 64), spec))
        qparams = [b.param("s", scale), None if spec.symmetric else b.param("z", zero), spec]
        bias = [b.param("bias", torch.arange(24.0))] if biased else []
        return b.call("aten.linear", x, b.call("qc.dequantize", stored, *qparams), *bias)

    program = build(body, typed(*leading, 64), stage=Stage.QUANTIZED)
    x = torch.randn(*(4 if isinstance(size, str) else size for size in leading), 64)
    torch.testing.assert_close(run_onnx(write_model(program), [x]), evaluate(program, [x]), rtol=1e-5, atol=1e-5)


def test_two_bit_weights_use_two_bits_where_the_operator_set_has_them() -> None:
    spec = QuantSpec.parse("int2 sym block=(-1,-1) scale=f32")

    def body(b: Builder, x: Node) -> Node:
        codes = b.param("w", torch.tensor([[-2.0, -1.0, 0.0, 1.0]]), TensorType(F32, (1, 4), spec))
        return b.call(
            "aten.add.Tensor",
            x,
            b.call("qc.dequantize", codes, b.param("s", torch.tensor([[0.5]])), None, spec),
        )

    program = build(body, typed(3, 4), stage=Stage.QUANTIZED)
    for opset, dtype in ((21, ir.DataType.UINT8), (25, ir.DataType.INT2)):
        stored = write_model(program, opset=opset).graph.initializers["w"].const_value
        assert stored is not None
        assert stored.dtype == dtype


DYNAMIC_SPECS = [
    "uint8 asym block=(-1,-1,-1) scale=f32 dynamic",
    "int8 sym block=(-1,-1,-1) scale=f32 dynamic",
    "int8 sym block=(1,1,-1) scale=f32 dynamic",
    "uint8 asym block=(1,1,-1) scale=f32 dynamic",
    "uint4 asym block=(-1,1,-1) scale=f32 dynamic",
]


@pytest.mark.parametrize("text", DYNAMIC_SPECS)
def test_run_time_scales_are_bit_exact(text: str) -> None:
    spec = QuantSpec.parse(text)

    def body(b: Builder, x: Node) -> list[Node]:
        scale, zero = b.items(b.call("qc.choose_qparams", x, spec))
        qparams = [scale, None if spec.symmetric else zero, spec]
        assert scale is not None
        assert zero is not None
        return [b.call("qc.dequantize", b.call("qc.quantize", x, *qparams), *qparams), scale, zero]

    program = build(body, typed("s0", 4, 6), stage=Stage.QUANTIZED)
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(5))
    x[1] = 0.0
    for value in (x, torch.zeros(1, 4, 6)):
        for got, wanted in zip(run_onnx(write_model(program), [value]), evaluate(program, [value]), strict=True):
            assert torch.equal(got, wanted)


def test_dynamic_uint8_becomes_one_operator() -> None:
    spec = QuantSpec.parse("uint8 asym block=(-1,-1) scale=f32 dynamic")

    def body(b: Builder, x: Node) -> Node:
        scale, zero = b.items(b.call("qc.choose_qparams", x, spec))
        return b.call("qc.dequantize", b.call("qc.quantize", x, scale, zero, spec), scale, zero, spec)

    program = build(body, typed("s0", 6), stage=Stage.QUANTIZED)
    assert kinds(write_model(program)) == ["DynamicQuantizeLinear", "DequantizeLinear"]


def test_weight_zero_points_are_explicit() -> None:
    spec = QuantSpec.parse("int8 sym block=(1,-1) scale=f32")
    program = build(fake_quantized(spec, torch.full((6, 1), 0.5), None), typed(6, 4), stage=Stage.QUANTIZED)
    for node in write_model(program).graph:
        assert node.inputs[2] is not None
        assert node.inputs[2].dtype == ir.DataType.INT8


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("fp4e2m1 sym block=(1,16) scale=e4m3 block=(-1,-1) scale=f32", (4, 32)),
        ("int8 sym block=(1,4,-1) scale=f32", (4, 8, 3)),
        ("nf4 sym block=(1,-1) scale=f32", (4, 32)),
    ],
)
def test_specs_beyond_onnx_are_refused(text: str, shape: tuple[int, ...]) -> None:
    spec = QuantSpec.parse(text)
    scale, _ = choose_qparams(torch.randn(shape), spec)
    scales = scale if isinstance(scale, tuple) else (scale,)

    def body(b: Builder, x: Node) -> Node:
        qparams = [tuple(b.param("s", item) for item in scales), None, spec]
        return b.call("qc.dequantize", b.call("qc.quantize", x, *qparams), *qparams)

    with pytest.raises(UnsupportedError) as caught:
        write_model(build(body, typed(*shape), stage=Stage.QUANTIZED))
    assert "%quantize = qc.quantize" in str(caught.value)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["uint8", "int8", "int8n", "uint4", "int5"]),
    st.lists(st.integers(-600, 600), min_size=8, max_size=8),
    st.sampled_from([0.5, 0.25, 0.1]),
    st.integers(0, 7),
)
def test_ties_and_saturation_are_bit_exact(name: str, halves: list[int], step: float, zero: int) -> None:
    spec = QuantSpec.parse(f"{name} asym block=(-1,-1) scale=f32")
    body = fake_quantized(spec, torch.tensor([[step]]), torch.tensor([[float(zero)]]))
    program = build(body, typed(2, 4), stage=Stage.QUANTIZED)
    x = torch.tensor(halves, dtype=F32).reshape(2, 4) / 2 * step
    assert torch.equal(run_onnx(write_model(program), [x])[0], evaluate(program, [x])[0])
