"""Rules about what is quantized around products: results for integer kernels, residual branches alone for engines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from qcompiler.backends.onnx.legal.edit import Editor, Rule, grid_of, known, maker, number, only_reader, readers

_LARGEST = 255.0
_ABSORBED = ("Clip", "Relu")
_FUSED_WITH_GEMM = (
    "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
)  # fmt: skip


def unquantized_results(graph: ir.Graph) -> list[ir.Value]:
    """Results of integer convolutions that nothing quantizes, each behind the activation that its kernel absorbs."""
    return [value for node in graph if (value := _result(node)) is not None]


def quantizing_results(ranges: Mapping[str, tuple[float, float]]) -> Rule:
    """The rule that quantizes such results by the smallest and largest value that samples showed of each."""
    return Rule(
        "quantize_result",
        "a convolution whose result is not quantized runs in float",
        partial(_quantize_result, dict(ranges)),
    )


def _result(node: ir.Node) -> ir.Value | None:
    if node.op_type != "Conv" or not _quantized(node):
        return None
    value = node.outputs[0]
    behind = only_reader(value, *_ABSORBED)
    value = behind.outputs[0] if behind is not None else value
    found = readers(value)
    if not found or value.is_graph_output():
        return None
    return None if all(reader.op_type == "QuantizeLinear" for reader in found) else value


def _quantized(node: ir.Node) -> bool:
    x, w = (maker(value, "DequantizeLinear") for value in node.inputs[:2])
    return grid_of(x) is not None and grid_of(w) is not None and w is not None and known(w.inputs[0]) is not None


def _quantize_result(ranges: Mapping[str, tuple[float, float]], editor: Editor, node: ir.Node) -> bool:
    value = _result(node)
    found = ranges.get(value.name or "") if value is not None else None
    if value is None or found is None:
        return False
    low, high = min(found[0], 0.0), max(found[1], 0.0)
    scale = np.float32((high - low) / _LARGEST or 1.0)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, _LARGEST))
    grid = [editor.constant(np.array(scale), "scale"), editor.constant(np.array(zero), "zero_point")]
    uses = list(value.uses())
    place = _first(editor, [use.node for use in uses])
    codes = editor.before(place, "QuantizeLinear", [value, *grid])
    codes.type = ir.TensorType(ir.DataType.UINT8)
    reals = editor.before(place, "DequantizeLinear", [codes, *grid])
    for use in uses:
        use.node.replace_input_with(use.idx, reals)
    return True


def _first(editor: Editor, nodes: list[ir.Node]) -> ir.Node:
    return next(node for node in editor.graph if node in nodes)


def keep_in_float(editor: Editor, node: ir.Node) -> bool:
    """A product with a float weight between codes: a sum of one term in front of it hides the codes."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return False
    x, w = node.inputs[:2]
    hidden = maker(x, "DequantizeLinear") is None or maker(w, "DequantizeLinear") is not None
    if hidden or _varies(w) or not _ends_in_codes(node.outputs[0]):
        return False
    node.replace_input_with(0, editor.before(node, "Sum", [x]))
    return True


def part_from_activation(editor: Editor, node: ir.Node) -> bool:
    """An activation in float behind an integer Gemm: a Reshape to the same shape, which costs nothing, parts them."""
    gemm = maker(node.inputs[0], "Gemm") if node.op_type in _FUSED_WITH_GEMM else None
    if gemm is None or only_reader(gemm.outputs[0], node.op_type) is None or not _quantized(gemm):
        return False
    if node.op_type in _ABSORBED and only_reader(node.outputs[0], "QuantizeLinear") is not None:
        return False
    weight = known(maker(gemm.inputs[1], "DequantizeLinear").inputs[0])  # pyright: ignore[reportOptionalMemberAccess]
    if weight is None:
        return False
    columns = weight.shape[0 if number(gemm, "transB", 0) else 1]
    shape = editor.constant(np.array([-1, columns]), "shape")
    node.replace_input_with(0, editor.before(node, "Reshape", [gemm.outputs[0], shape]))
    return True


def _varies(value: ir.Value | None) -> bool:
    """Whether a value depends on an input of the graph."""
    waiting, seen = [value], {value}
    while waiting:
        each = waiting.pop()
        if each is None:
            continue
        node = each.producer()
        if node is None and each.is_graph_input():
            return True
        sources = [source for source in (node.inputs if node is not None else ()) if source not in seen]
        waiting += sources
        seen.update(sources)
    return False


def _ends_in_codes(value: ir.Value) -> bool:
    """Whether a result is quantized, an addition or an activation in between included."""
    behind = only_reader(value, "Add", *_ABSORBED)
    while behind is not None:
        value = behind.outputs[0]
        behind = only_reader(value, "Add", *_ABSORBED)
    found = readers(value)
    return bool(found) and all(reader.op_type == "QuantizeLinear" for reader in found)


def leave_to_addition(editor: Editor, node: ir.Node) -> bool:
    """A convolution hands its result to a residual addition as it is; the other branch stays quantized."""
    branches = [maker(value, "DequantizeLinear") for value in node.inputs] if node.op_type == "Add" else []
    if len(branches) != 2 or None in branches:
        return False
    for position, branch in enumerate(branches):
        source = _behind_convolution(branch)
        if source is not None:
            node.replace_input_with(position, source)
            return True
    return False


def _behind_convolution(branch: ir.Node | None) -> ir.Value | None:
    """The result of the convolution that a dequantizer alone reads, through a quantizer."""
    quantizer = maker(branch.inputs[0], "QuantizeLinear") if branch is not None else None
    conv = maker(quantizer.inputs[0], "Conv") if quantizer is not None else None
    if branch is None or quantizer is None or conv is None or only_reader(branch.outputs[0], "Add") is None:
        return None
    alone = only_reader(quantizer.outputs[0], "DequantizeLinear") and only_reader(conv.outputs[0], "QuantizeLinear")
    return conv.outputs[0] if alone else None


RUNTIME_RULES: tuple[Rule, ...] = (
    Rule(
        "keep_in_float",
        "the runtime quantizes a float weight between codes on its own account, with one scale for the whole of it",
        keep_in_float,
    ),
    Rule(
        "part_from_activation",
        "Gemm and an activation become one float operator before integer patterns are looked for, which dequantizes "
        "the weight at every run",
        part_from_activation,
    ),
)
"""For onnxruntime: what is asked to stay in float does."""
ENGINE_RULES: tuple[Rule, ...] = (
    Rule(
        "leave_to_addition",
        "an engine fuses a convolution with a residual addition only when nothing is quantized between them",
        leave_to_addition,
    ),
)
"""For compilers of explicit quantization such as TensorRT."""
