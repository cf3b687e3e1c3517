"""Attention and rotary embeddings as one ONNX operator each, on three axes; see `backends.onnx.cluster`."""

from __future__ import annotations

import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.settings import Settings
from qcompiler.ir.program import Node


def attention(context: Context, call: Call, settings: Settings) -> ir.Value:
    """`Attention` of operator set 23."""
    query, key, value = (call.inputs[position] for position in range(3))
    if not isinstance(query, Node) or not isinstance(key, Node) or not isinstance(value, Node):
        raise call.unsupported("its operands are not tensors")
    operands = [context.value(node) for node in (query, key, value)]
    attributes = {
        "q_num_heads": call.integer("query_heads"),
        "kv_num_heads": call.integer("key_heads"),
        "scale": float(call.number("scale")),
        "is_causal": int(call.flag("is_causal")),
    }
    return context.op("Attention", [*operands, _mask(context, call, query, key)], attributes)


def _mask(context: Context, call: Call, query: Node, key: Node) -> ir.Value | None:
    """The mask with its last two axes in full: onnxruntime broadcasts only those in front of them."""
    mask = call.inputs[3]
    if not isinstance(mask, Node):
        return None
    shape, program = context.program.shape(mask), context.program
    wanted = (program.shape(query)[1], program.shape(key)[1])
    if shape[-2:] == wanted:
        return context.value(mask)
    leading = [context.size(mask, axis) for axis in range(len(shape) - 2)]
    sizes = context.sizes([*leading, context.size(query, 1), context.size(key, 1)])
    return context.shared("Expand", [context.value(mask), sizes])


def rotary(context: Context, call: Call, settings: Settings) -> ir.Value:
    """`RotaryEmbedding` of operator set 23, whose tables hold one half and the whole batch."""
    source, cos, sin = (call.inputs[position] for position in range(3))
    if not isinstance(source, Node) or not isinstance(cos, Node) or not isinstance(sin, Node):
        raise call.unsupported("its operands are not tensors")
    tables = [_table(context, table, source) for table in (cos, sin)]
    return context.op("RotaryEmbedding", [context.value(source), *tables], {"num_heads": call.integer("heads")})


def _table(context: Context, table: Node, source: Node) -> ir.Value:
    """The first half of a table, as [batch, length, half]; one for all layers."""
    shape, batch = context.program.shape(table), context.program.shape(source)[0]
    leading = shape[0] if len(shape) == 4 else 1
    name = str(table.target) if table.op == "get_attr" else table
    value = context.memo(("half", name), lambda: _first_half(context, table, int(shape[-1]) // 2))
    if leading == batch:
        return value
    return context.shared("Expand", [value, context.sizes([context.size(source, 0), 1, 1])])


def _first_half(context: Context, table: Node, half: int) -> ir.Value:
    known = context.program.constant(table)
    if known is not None:
        return context.constant(known[..., :half].reshape(-1, known.shape[-2], half).contiguous())
    bounds = [context.ints([bound]) for bound in (0, half, -1)]
    value = context.op("Slice", [context.value(table), *bounds])
    rank = len(context.program.shape(table))
    if rank == 3:
        return value
    return context.op("Unsqueeze" if rank == 2 else "Squeeze", [value, context.ints([0 if rank == 2 else 1])])
