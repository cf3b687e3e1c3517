"""Look-ups, scatters and ordering."""

from __future__ import annotations

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitted, Emitter
from qcompiler.ir.program import Node

_INT64 = torch.int64


def _embedding(context: Context, call: Call) -> ir.Value:
    return context.op("Gather", [context.value(call.node_at("weight")), context.value(call.node_at("indices"))])


def _index_select(context: Context, call: Call) -> ir.Value:
    inputs = [context.value(call.node_at("self")), context.value(call.node_at("index"))]
    return context.op("Gather", inputs, {"axis": call.axis("dim", len(call.shape("self")))})


def _gather(context: Context, call: Call) -> ir.Value:
    inputs = [context.value(call.node_at("self")), context.value(call.node_at("index"))]
    return context.op("GatherElements", inputs, {"axis": call.axis("dim", len(call.shape("self")))})


def _scatter(context: Context, call: Call) -> ir.Value:
    index = context.value(call.node_at("index"))
    if "src" in call.arguments:
        source = context.value(call.node_at("src"))
    else:
        sizes = context.op("Shape", [index])
        source = context.op("Expand", [context.operand(call.raw("value"), call.type.dtype), sizes])
    axis = call.axis("dim", len(call.shape("self")))
    return context.op("ScatterElements", [context.value(call.node_at("self")), index, source], {"axis": axis})


def _scatter_reduce(context: Context, call: Call) -> ir.Value:
    reductions = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
    reduction = call.text("reduce")
    if reduction not in reductions or not call.flag("include_self"):
        raise call.unsupported(f"scattering with '{reduction}'", f"use {', '.join(reductions)} with include_self=True")
    inputs = [context.value(call.node_at(name)) for name in ("self", "index", "src")]
    axis = call.axis("dim", len(call.shape("self")))
    return context.op("ScatterElements", inputs, {"axis": axis, "reduction": reductions[reduction]})


def _index(context: Context, call: Call) -> ir.Value:
    """`x[i, :, j]`: the indexed axes are moved to the front, gathered together, and the result moved back."""
    indices = call.nodes("indices")
    axes = [axis for axis, node in enumerate(indices) if node is not None]
    value = context.value(call.node_at("self"))
    _refuse_masks(context, call, indices)
    if len(axes) == 1:
        return context.op("Gather", [value, _position(context, indices[axes[0]])], {"axis": axes[0]})
    rank = len(call.shape("self"))
    front = [*axes, *(axis for axis in range(rank) if axis not in axes)]
    if front != list(range(rank)):
        value = context.op("Transpose", [value], {"perm": front})
    gathered = context.op("GatherND", [value, _stacked(context, indices)])
    return _moved_back(context, gathered, axes, call.type.rank - (rank - len(axes)), call.type.rank)


def _moved_back(context: Context, value: ir.Value, axes: list[int], width: int, rank: int) -> ir.Value:
    """Torch leaves the indexed axes where they were when they were neighbours, else in front."""
    first = axes[0]
    if first == 0 or axes != list(range(first, first + len(axes))):
        return value
    order = [*range(width, width + first), *range(width), *range(width + first, rank)]
    return context.op("Transpose", [value], {"perm": order})


def _index_put(context: Context, call: Call) -> ir.Value:
    indices = call.nodes("indices")
    _refuse_masks(context, call, indices)
    if any(node is None for node in indices):
        raise call.unsupported("writing behind an axis that is not indexed", "permute the indexed axes to the front")
    stacked = _stacked(context, indices)
    tail = context.op("Shape", [context.value(call.node_at("self"))], {"start": len(indices)})
    sizes = context.op("Concat", [context.op("Shape", [stacked], {"end": -1}), tail], {"axis": 0})
    values = context.op("Expand", [context.value(call.node_at("values")), sizes])
    reduction = "add" if call.flag("accumulate") else "none"
    return context.op("ScatterND", [context.value(call.node_at("self")), stacked, values], {"reduction": reduction})


def _refuse_masks(context: Context, call: Call, indices: list[Node | None]) -> None:
    for node in indices:
        if node is not None and context.program.tensor_type(node).dtype == torch.bool:
            raise call.unsupported("selecting by a mask has a shape that depends on data", "use torch.where")


def _position(context: Context, node: Node | None) -> ir.Value:
    return context.operand(node, _INT64)


def _stacked(context: Context, indices: list[Node | None]) -> ir.Value:
    """Index tensors broadcast against each other, side by side on a new last axis."""
    positions = [_position(context, node) for node in indices if node is not None]
    common = positions[0]
    for position in positions[1:]:
        common = context.op("Add", [common, position])
    sizes = context.op("Shape", [common])
    last = context.ints([-1])
    columns = [context.op("Unsqueeze", [context.op("Expand", [position, sizes]), last]) for position in positions]
    return columns[0] if len(columns) == 1 else context.op("Concat", columns, {"axis": -1})


def _top(context: Context, call: Call) -> Emitted:
    axis = call.axis("dim", len(call.shape("self")))
    attributes = {"axis": axis, "largest": int(call.flag("largest")), "sorted": int(call.flag("sorted"))}
    inputs = [context.value(call.node_at("self")), context.vector(call.size("k", 1))]
    return context.ops("TopK", inputs, attributes, outputs=2)


def _sort(context: Context, call: Call) -> Emitted:
    node = call.node_at("self")
    axis = call.axis("dim", len(call.shape("self")))
    count = context.vector(context.size(node, axis))
    attributes = {"axis": axis, "largest": int(call.flag("descending")), "sorted": 1}
    return context.ops("TopK", [context.value(node), count], attributes, outputs=2)


EMITTERS: dict[str, Emitter] = {
    "aten.embedding": _embedding,
    "aten.index_select": _index_select,
    "aten.gather": _gather,
    "aten.scatter.src": _scatter,
    "aten.scatter.value": _scatter,
    "aten.scatter_reduce.two": _scatter_reduce,
    "aten.index.Tensor": _index,
    "aten.index_put": _index_put,
    "aten.topk": _top,
    "aten.sort": _sort,
    "aten.sort.stable": _sort,
}
