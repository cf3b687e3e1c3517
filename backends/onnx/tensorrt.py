"""What TensorRT's documentation asks of explicit quantization, as rules over an ONNX file: TensorRT itself is not here.

Source: NVIDIA TensorRT documentation, "Working with Quantized Types" (schemes, explicit quantization, Q/DQ placement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import numpy_helper

from qcompiler.backends.onnx.foreign import Wiring

Capability = tuple[int, int]
ORIN: Capability = (8, 7)
_FP8_FROM: Capability = (8, 9)
_FP4_FROM: Capability = (10, 0)
_NUMBERS = frozenset({"int8", "int4", "float8e4m3fn", "float4e2m1"})
_FROM: Mapping[str, Capability] = {"float8e4m3fn": _FP8_FROM, "float4e2m1": _FP4_FROM}
_INT4_BLOCKS = (64, 128)
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_PRIVATE = frozenset({"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"})


@dataclass(frozen=True)
class Finding:
    """One place that is not as the documentation asks.

    Args:
        rule: name of the rule.
        node: name of the ONNX node.
        what: what is wrong.
        mend: what to do.
        level: `error` where no engine can be built or the layer would run in float, `advice` where it is slower.
    """

    rule: str
    node: str
    what: str
    mend: str
    level: Literal["error", "advice"] = "error"

    def __str__(self) -> str:
        return f"{self.rule} at {self.node}: {self.what}; {self.mend}"


@dataclass(frozen=True)
class Checked:
    """A graph with its wiring, and the device it is for."""

    graph: onnx.GraphProto
    wiring: Wiring
    capability: Capability

    def values(self, name: str) -> np.ndarray | None:
        """The values of a stored tensor."""
        stored = self.wiring.stored.get(name)
        return None if stored is None else numpy_helper.to_array(stored)

    def pairs(self) -> Iterator[onnx.NodeProto]:
        """All quantizers and dequantizers."""
        return (node for node in self.graph.node if node.op_type in _PAIR)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a stored tensor, or of one that is quantized from a stored tensor."""
        quantizer = self.wiring.maker(name, "QuantizeLinear")
        stored = self.wiring.stored.get(quantizer.input[0] if quantizer is not None else name)
        return () if stored is None else tuple(stored.dims)


Rule = Callable[[Checked], Iterator[Finding]]


def check_tensorrt(model: onnx.ModelProto, capability: Capability = ORIN) -> tuple[Finding, ...]:
    """Every place of a model that TensorRT would refuse or run otherwise than asked, by rule.

    Args:
        model: with its small tensors inside; large weights may lie in other files.
        capability: compute capability of the GPU, (8, 7) for Jetson Orin.
    """
    checked = Checked(model.graph, Wiring.of(model.graph), capability)
    return tuple(finding for rule in RULES for finding in rule(checked))


def zero_points(checked: Checked) -> Iterator[Finding]:
    """Quantization is symmetric: all zero points are zero."""
    for node in checked.pairs():
        values = checked.values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if values is not None and np.asarray(values).astype(np.float32).any():
            yield Finding("zero_points", node.name, "its zero point is not zero", "quantize symmetrically")


def numbers(checked: Checked) -> Iterator[Finding]:
    """Codes are int8, int4, float8e4m3fn or float4e2m1."""
    for node in checked.pairs():
        number = checked.wiring.number(node)
        if number not in _NUMBERS and not (number == "int32" and _is_bias(checked, node)):
            mend = f"use one of {', '.join(sorted(_NUMBERS))}"
            yield Finding("numbers", node.name, f"{number} is not among its numbers", mend)


def device(checked: Checked) -> Iterator[Finding]:
    """FP8 and FP4 need a GPU that has them."""
    for node in checked.pairs():
        least = _FROM.get(checked.wiring.number(node), (0, 0))
        if checked.capability < least:
            what = f"{checked.wiring.number(node)} needs compute capability {least[0]}.{least[1]}"
            have = f"{checked.capability[0]}.{checked.capability[1]}"
            yield Finding("device", node.name, f"{what}, the device has {have}", "use int8 or int4 weights")


def biases(checked: Checked) -> Iterator[Finding]:
    """Biases stay in float."""
    for node in checked.pairs():
        if node.op_type == "DequantizeLinear" and _is_bias(checked, node):
            yield Finding("biases", node.name, "it dequantizes a bias", "write the bias in float")


def constant_scales(checked: Checked) -> Iterator[Finding]:
    """Scales of int8 and int4 are known when the engine is built."""
    for node in checked.pairs():
        stored = node.input[1] in checked.wiring.stored
        if not stored and checked.wiring.maker(node.input[1], "DequantizeLinear", "Constant", "Cast") is None:
            yield Finding("constant_scales", node.name, "its scale is found at run time", "calibrate static scales")


def activation_scales(checked: Checked) -> Iterator[Finding]:
    """An activation has one scale."""
    for node in checked.pairs():
        if checked.wiring.is_stored(node.input[0]) or node.input[0] in checked.wiring.stored:
            continue
        if checked.wiring.grain(node) == "channel":
            yield Finding("activation_scales", node.name, "an activation has one scale per channel", "use one scale")


def weight_axes(checked: Checked) -> Iterator[Finding]:
    """Scales of a weight lie along its output channels."""
    for node, weight in _weights(checked):
        if checked.wiring.grain(weight) != "channel":
            continue
        axis = next((item.i for item in weight.attribute if item.name == "axis"), 1)
        wanted = _output_axis(checked, node)
        rank = len(checked.shape(weight.input[0])) or 1
        if axis % rank != wanted:
            what = f"its scales lie along axis {axis % rank} of the weight, not along output channels"
            yield Finding("weight_axes", node.name, what, f"use axis {wanted}")


def int4_blocks(checked: Checked) -> Iterator[Finding]:
    """int4 is for weights alone, in blocks of 64 or 128 along the axis that is summed over."""
    for node in checked.pairs():
        activation = node.op_type == "QuantizeLinear" and node.input[0] not in checked.wiring.stored
        if activation and checked.wiring.number(node) == "int4":
            yield Finding("int4_blocks", node.name, "an activation is quantized to int4", "use int8")
    for node, weight in _weights(checked):
        if checked.wiring.number(weight) == "int4":
            problem = _block_problem(checked, node, weight)
            if problem:
                yield Finding("int4_blocks", node.name, problem, "use blocks of 64 or 128 that divide the inputs")


def _block_problem(checked: Checked, node: onnx.NodeProto, weight: onnx.NodeProto) -> str:
    attributes = {item.name: item.i for item in weight.attribute}
    size, shape = attributes.get("block_size", 0), checked.shape(weight.input[0])
    if checked.wiring.operand(node.input[0]).number:
        return "its activations are quantized too: int4 is for weights alone"
    if size not in _INT4_BLOCKS:
        return f"its int4 weight has blocks of {size}" if size else "its int4 weight has no blocks"
    if len(shape) != 2 or attributes.get("axis", 1) % 2 == _output_axis(checked, node):
        return "its int4 blocks do not run along the inputs"
    inner = shape[attributes.get("axis", 1) % 2]
    return f"{inner} inputs are not a multiple of {size}" if inner % size else ""


def both_operands(checked: Checked) -> Iterator[Finding]:
    """An int8 or FP8 product has both operands quantized."""
    for node, weight in _weights(checked):
        asked = checked.wiring.operand(node.input[0]).number
        if not asked and checked.wiring.number(weight) in ("int8", "float8e4m3fn"):
            mend = "quantize the input too, or use int4 for weights alone"
            yield Finding("both_operands", node.name, "its weight is quantized, its input is not", mend)
    for node in checked.graph.node:
        float_weight = node.op_type in _WEIGHTED and node.input[1] in checked.wiring.stored
        if float_weight and checked.wiring.operand(node.input[0]).number:
            mend = "quantize the weight too"
            yield Finding("both_operands", node.name, "its input is quantized, its weight is not", mend, "advice")


def operators(checked: Checked) -> Iterator[Finding]:
    """Only standard operators, and among these none that computes on integers by itself."""
    for node in checked.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type in _PRIVATE:
            what = f"{node.op_type} is not read"
            yield Finding("operators", node.name, what, "write QuantizeLinear and DequantizeLinear around the operator")


def activations_apart(checked: Checked) -> Iterator[Finding]:
    """Nothing is quantized between a convolution and its activation."""
    for node, reader in _requantized(checked):
        if reader.op_type in ("Clip", "LeakyRelu", "Relu"):
            mend = "quantize behind the activation"
            what = "its result is quantized in front of its activation: both run apart"
            yield Finding("activations_apart", node.name, what, mend, "advice")


def additions_apart(checked: Checked) -> Iterator[Finding]:
    """A convolution takes a residual add along when only the other branch is quantized."""
    for node, reader in _requantized(checked):
        if reader.op_type == "Add":
            mend = "quantize the residual branch alone"
            what = "its result is quantized in front of an addition: both run apart"
            yield Finding("additions_apart", node.name, what, mend, "advice")


RULES: tuple[Rule, ...] = (
    zero_points,
    numbers,
    device,
    biases,
    constant_scales,
    activation_scales,
    weight_axes,
    int4_blocks,
    both_operands,
    operators,
    activations_apart,
    additions_apart,
)


def _is_bias(checked: Checked, node: onnx.NodeProto) -> bool:
    readers = checked.wiring.readers.get(node.output[0], ())
    return any(
        reader.op_type in _WEIGHTED and len(reader.input) > 2 and reader.input[2] == node.output[0]
        for reader in readers
    )


def _weights(checked: Checked) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Each product with the dequantizer of its stored weight."""
    for node in checked.graph.node:
        if node.op_type in _WEIGHTED:
            weight = checked.wiring.maker(node.input[1], "DequantizeLinear")
            if weight is not None and checked.wiring.is_stored(weight.input[0]):
                yield node, weight


def _output_axis(checked: Checked, node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    turned = node.op_type == "Gemm" and any(item.name == "transB" and item.i for item in node.attribute)
    return 0 if turned else 1


def _requantized(checked: Checked) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Each convolution whose only reader quantizes, with who reads what is dequantized behind."""
    for node in checked.graph.node:
        readers = checked.wiring.readers.get(node.output[0], ()) if node.op_type == "Conv" else ()
        if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
            for pair in checked.wiring.readers.get(readers[0].output[0], ()):
                if pair.op_type == "DequantizeLinear":
                    yield from ((node, reader) for reader in checked.wiring.readers.get(pair.output[0], ()))
