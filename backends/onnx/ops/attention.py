"""Scaled dot-product attention as matrix products; as one operator it is a kernel, see `backends.onnx.cluster`.

Source: Vaswani et al. 2017, "Attention Is All You Need"; Ainslie et al. 2023, "GQA".
"""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitter
from qcompiler.backends.onnx.ops.shape import repeat_each
from qcompiler.ir.program import Node


def _attention(context: Context, call: Call) -> ir.Value:
    query, key, value = (call.node_at(name) for name in ("query", "key", "value"))
    if call.number("dropout_p", 0) != 0:
        raise call.unsupported("dropout in attention", "put the model in eval mode")
    width = call.shape("query")[-1]
    if call.raw("scale") is None and not isinstance(width, int):
        raise call.unsupported("the head width is symbolic")
    scale = call.number("scale", 1 / math.sqrt(int(width)) if call.raw("scale") is None else None)
    scaled = context.op("Mul", [context.value(query), context.scalar(scale, call.type.dtype)])
    keys, values = _repeated(context, call, key), _repeated(context, call, value)
    rank = len(call.shape("key"))
    flipped = [*range(rank - 2), rank - 1, rank - 2]
    scores = context.op("MatMul", [scaled, context.op("Transpose", [keys], {"perm": flipped})])
    mask = call.optional("attn_mask")
    if call.flag("is_causal"):
        scores = context.op("Add", [scores, _causal_bias(context, call)])
    if mask is not None:
        scores = context.op("Add", [scores, _mask_bias(context, call, mask)])
    mixed = context.op("MatMul", [context.op("Softmax", [scores], {"axis": -1}), values])
    if mask is None or context.program.tensor_type(mask).dtype != torch.bool:
        return mixed
    return context.op("Where", [_visible_rows(context, mask), mixed, context.scalar(0, call.type.dtype)])


def _repeated(context: Context, call: Call, node: Node) -> ir.Value:
    """Keys or values, every head repeated for the query heads that share it."""
    if not call.flag("enable_gqa"):
        return context.value(node)
    heads, own = call.shape("query")[-3], context.program.shape(node)[-3]
    if not isinstance(heads, int) or not isinstance(own, int):
        raise call.unsupported("the number of heads is symbolic")
    if heads == own:
        return context.value(node)
    return repeat_each(context, node, len(context.program.shape(node)) - 3, heads // own)


def _causal_bias(context: Context, call: Call) -> ir.Value:
    """0 where a query may look, the lowest number elsewhere; the diagonal starts at the top left."""
    positions = []
    for name, axis in (("query", 1), ("key", 0)):
        node = call.node_at(name)
        size = context.size(node, len(call.shape(name)) - 2)
        length = context.scalar(size, torch.int64) if isinstance(size, int) else _squeezed(context, size)
        steps = context.shared("Range", [context.scalar(0, torch.int64), length, context.scalar(1, torch.int64)])
        positions.append(context.shared("Unsqueeze", [steps, context.ints([axis])]))
    hidden = context.shared("Less", positions)
    return _bias(context, hidden, call.type.dtype, visible=False)


def _squeezed(context: Context, vector: ir.Value) -> ir.Value:
    return context.shared("Squeeze", [vector, context.ints([0])])


def _mask_bias(context: Context, call: Call, mask: Node) -> ir.Value:
    dtype = context.program.tensor_type(mask).dtype
    if dtype != torch.bool:
        return context.operand(mask, call.type.dtype)
    return _bias(context, context.value(mask), call.type.dtype, visible=True)


def _bias(context: Context, condition: ir.Value, dtype: torch.dtype, *, visible: bool) -> ir.Value:
    # The lowest finite number and not minus infinity: a row without any visible key must not become NaN.
    zero, lowest = context.scalar(0, dtype), context.scalar(torch.finfo(dtype).min, dtype)
    return context.shared("Where", [condition, zero, lowest] if visible else [condition, lowest, zero])


def _visible_rows(context: Context, mask: Node) -> ir.Value:
    """Whether a query sees any key at all: torch answers zeros where it sees none."""
    counts = context.shared("Cast", [context.value(mask)], {"to": ir.DataType.INT32.value})
    most = context.shared("ReduceMax", [counts, context.ints([-1])], {"keepdims": 1})
    return context.shared("Cast", [most], {"to": ir.DataType.BOOL.value})


EMITTERS: dict[str, Emitter] = {"aten.scaled_dot_product_attention": _attention}
