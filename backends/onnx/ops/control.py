"""Control flow: regions become the subgraphs of `If`, `Loop` and `Scan`, which read captures by their outer names."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitter
from qcompiler.backends.onnx.dtypes import onnx_dtype
from qcompiler.ir.program import Node
from qcompiler.ir.region import Region
from qcompiler.ir.types import SymbolType


def _cond(context: Context, call: Call) -> list[ir.Value]:
    captures = _values(context, call, "captures")
    branches = {
        "then_branch": _subgraph(context, call, "then", captures),
        "else_branch": _subgraph(context, call, "otherwise", captures),
    }
    return context.ops("If", [_scalar(context, call, "pred", torch.bool)], branches, outputs=len(call.types))


def _loop(context: Context, call: Call) -> list[ir.Value]:
    body = _subgraph(context, call, "body", _values(context, call, "captures"))
    trip_count = _scalar(context, call, "trip_count", torch.int64)
    condition = _scalar(context, call, "condition", torch.bool)
    inputs = [trip_count, condition, *_values(context, call, "carried")]
    return context.ops("Loop", inputs, {"body": body}, outputs=len(call.types))


def _scan(context: Context, call: Call) -> list[ir.Value]:
    sequences = _values(context, call, "sequences")
    attributes = {
        "body": _subgraph(context, call, "body", _values(context, call, "captures")),
        "num_scan_inputs": len(sequences),
        "scan_input_axes": call.integers("axes"),
        "scan_input_directions": call.integers("reverse"),
        "scan_output_axes": call.integers("result_axes"),
        "scan_output_directions": call.integers("result_reverse"),
    }
    given = {name: value for name, value in attributes.items() if value != []}
    return context.ops("Scan", [*_values(context, call, "states"), *sequences], given, outputs=len(call.types))


EMITTERS: dict[str, Emitter] = {"qc.cond": _cond, "qc.loop": _loop, "qc.scan": _scan}


def _values(context: Context, call: Call, name: str) -> list[ir.Value]:
    return [context.value(node) for node in call.nodes(name) if node is not None]


def _scalar(context: Context, call: Call, name: str, dtype: torch.dtype) -> ir.Value | None:
    """An operand with one element; a size becomes a tensor."""
    node = call.optional(name)
    if node is None:
        return None
    return context.operand(node, dtype) if isinstance(context.program.type(node), SymbolType) else context.value(node)


def _subgraph(context: Context, call: Call, name: str, captures: Sequence[ir.Value]) -> ir.Graph:
    """The graph of a region; its last inputs are values of the graph around, the others are inputs of its own."""
    region: object = call.raw(name)
    if not isinstance(region, Region):
        raise call.unsupported(f"'{name}' must be a region")
    inner = context.nested(region.program)
    nodes = region.program.inputs
    own = len(nodes) - len(captures)
    inputs = [_input(inner, node) for node in nodes[:own]]
    for node, value in zip(nodes, [*inputs, *captures], strict=True):
        inner.bind(node, value)
    context.write_body(inner)
    outputs = [_output(inner, node) for node in region.program.outputs]
    distinct = [value if value not in outputs[:index] else _copied(inner, value) for index, value in enumerate(outputs)]
    return ir.Graph(inputs, distinct, nodes=inner.nodes, name=context.unique(region.program.name))


def _input(context: Context, node: Node) -> ir.Value:
    type_ = context.program.tensor_type(node)
    dtype = ir.TensorType(onnx_dtype(type_.dtype))
    return ir.Value(name=context.unique(node.name), shape=context.shape_of(type_), type=dtype)


def _output(context: Context, node: Node) -> ir.Value:
    """A result of the graph, which must be made inside it."""
    value = context.value(node)
    inside = any(value is made for onnx_node in context.nodes for made in onnx_node.outputs)
    return value if inside else _copied(context, value)


def _copied(context: Context, value: ir.Value) -> ir.Value:
    copy = context.op("Identity", [value])
    copy.name, copy.type, copy.shape = context.unique(f"{value.name}.copy"), value.type, value.shape
    context.nodes[-1].name = copy.name
    return copy
