"""Operators whose results have as many elements as the data say."""

from __future__ import annotations

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitted, Emitter


def _nonzero(context: Context, call: Call) -> ir.Value:
    return context.op("Transpose", [context.op("NonZero", [context.value(call.node_at("self"))])], {"perm": [1, 0]})


def _unique(context: Context, call: Call) -> Emitted:
    axis = call.axis("dim", len(call.shape("self")))
    value = context.value(call.node_at("self"))
    values, _, inverse, counts = context.ops("Unique", [value], {"axis": axis, "sorted": 1}, outputs=4)
    return [values, inverse, counts]


def _suppress(context: Context, call: Call) -> ir.Value:
    dtype = torch.float32
    settings = (("most", torch.int64), ("overlap", dtype), ("least", dtype))
    scalars = [
        None if call.raw(name) is None else context.op("Reshape", [context.operand(call.raw(name), kind), one])
        for one in (context.ints([1]),)
        for name, kind in settings
    ]
    inputs = [context.operand(call.node_at(name), dtype) for name in ("boxes", "scores")]
    return context.op("NonMaxSuppression", [*inputs, *scalars], {"center_point_box": int(call.flag("centred"))})


EMITTERS: dict[str, Emitter] = {
    "aten.nonzero": _nonzero,
    "aten.unique_dim": _unique,
    "qc.non_max_suppression": _suppress,
}
