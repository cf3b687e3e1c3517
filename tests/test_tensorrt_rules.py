"""The rules of explicit quantization for TensorRT: each finds its own fault, none finds one where there is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from qcompiler.backends.onnx.matrix.sketch import Sketch, codes
from qcompiler.backends.onnx.names import MICROSOFT
from qcompiler.backends.onnx.tensorrt import ORIN, Capability, check_tensorrt

HOPPER = (9, 0)


def weight(g: Sketch, shape: tuple[int, ...], number: str = "s8", axis: int = 0, block: int = 0) -> str:
    """A dequantized weight with scales along `axis`, or in blocks along it."""
    sizes = [size // block if i == axis else size for i, size in enumerate(shape)] if block else [shape[axis]]
    attributes = {"axis": axis} | ({"block_size": block} if block else {})
    stored = g.constant(codes(shape, number), number)
    scales = g.constant(np.full(sizes, 0.01))
    return g.op("DequantizeLinear", [stored, scales, g.constant(np.zeros(sizes), number)], attributes)


def conv(g: Sketch, x: str, w: str | None = None, bias: str = "") -> str:
    return g.op("Conv", [x, w or weight(g, (8, 8, 3, 3)), bias] if bias else [x, w or weight(g, (8, 8, 3, 3))])


def image(g: Sketch) -> str:
    return g.input((1, 8, 9, 9))


def rows(g: Sketch) -> str:
    return g.input((4, 128))


def rules(body: Callable[[Sketch], str], capability: Capability = ORIN) -> list[str]:
    g = Sketch()
    return [finding.rule for finding in check_tensorrt(g.model([body(g)]), capability)]


def test_a_proper_file_has_no_findings():
    def body(g: Sketch) -> str:
        bias = g.constant(np.zeros(8))
        y = g.op("Relu", [conv(g, g.pair(image(g), "s8"), bias=bias)])
        return conv(g, g.pair(y, "s8"))

    assert rules(body) == []


def test_int4_weights_in_blocks_are_proper():
    assert rules(lambda g: g.op("MatMul", [rows(g), weight(g, (128, 32), "s4", 0, 64)])) == []


def test_a_residual_branch_may_be_quantized():
    def body(g: Sketch) -> str:
        x = g.pair(g.input((1, 8, 9, 9)), "s8")
        return g.pair(g.op("Relu", [g.op("Add", [g.op("Conv", [x, weight(g, (8, 8, 1, 1))]), x])]), "s8")

    assert rules(body) == []


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("zero_points", lambda g: conv(g, g.pair(image(g), "s8", zero=3))),
        ("numbers", lambda g: conv(g, g.pair(image(g), "u8", zero=0))),
        ("device", lambda g: g.op("MatMul", [g.pair(rows(g), "f8"), weight(g, (128, 8), "f8", 1)])),
        ("biases", lambda g: conv(g, g.pair(image(g), "s8"), bias=weight(g, (8,), "s32"))),
        ("weight_axes", lambda g: conv(g, g.pair(image(g), "s8"), weight(g, (8, 8, 3, 3), axis=1))),
        ("weight_axes", lambda g: g.op("MatMul", [g.pair(rows(g), "s8"), weight(g, (128, 128), axis=0)])),
        ("int4_blocks", lambda g: g.op("MatMul", [rows(g), weight(g, (128, 32), "s4", 0, 32)])),
        ("int4_blocks", lambda g: g.op("MatMul", [rows(g), weight(g, (128, 64), "s4", 1, 64)])),
        ("int4_blocks", lambda g: g.op("MatMul", [g.pair(rows(g), "s8"), weight(g, (128, 8), "s4", 0, 64)])),
        ("both_operands", lambda g: conv(g, image(g))),
        ("both_operands", lambda g: conv(g, g.pair(image(g), "s8"), g.constant(np.ones((8, 8, 3, 3))))),
        ("operators", lambda g: g.op("FastGelu", [image(g)], domain=MICROSOFT)),
        ("activations_apart", lambda g: g.op("Relu", [g.pair(conv(g, g.pair(image(g), "s8")), "s8")])),
    ],
)
def test_each_rule_finds_its_fault(rule: str, body: Callable[[Sketch], str]):
    assert rules(body) == [rule] or set(rules(body)) == {rule}


def test_additions_apart_is_advice():
    def body(g: Sketch) -> str:
        x = g.pair(g.input((1, 8, 9, 9)), "s8")
        y = g.pair(g.op("Conv", [x, weight(g, (8, 8, 1, 1))]), "s8")
        return g.op("Add", [y, x])

    g = Sketch()
    (finding,) = check_tensorrt(g.model([body(g)]))
    assert (finding.rule, finding.level) == ("additions_apart", "advice")
    assert "residual" in str(finding)


def test_scales_of_run_time_are_found():
    def body(g: Sketch) -> str:
        x = rows(g)
        codes_, scale, zero = g.ops("DynamicQuantizeLinear", [x], 3)
        return g.op("MatMul", [g.dequantize(codes_, (scale, zero)), weight(g, (128, 8), axis=1)])

    assert {"constant_scales", "operators"} <= set(rules(body))


def test_scales_per_channel_of_an_activation_are_found():
    def body(g: Sketch) -> str:
        grid = [g.constant(np.full(8, 0.1)), g.constant(np.zeros(8), "s8")]
        q = g.op("QuantizeLinear", [image(g), *grid], {"axis": 1})
        return conv(g, g.op("DequantizeLinear", [q, *grid], {"axis": 1}))

    assert set(rules(body)) == {"activation_scales"}


def test_fp8_is_proper_where_the_device_has_it():
    def body(g: Sketch) -> str:
        return g.op("MatMul", [g.pair(rows(g), "f8"), weight(g, (128, 8), "f8", 1)])

    assert rules(body, HOPPER) == []


def test_findings_name_the_node():
    g = Sketch()
    model: onnx.ModelProto = g.model([conv(g, image(g))])
    (finding,) = check_tensorrt(model)
    assert finding.node in {node.name for node in model.graph.node}
