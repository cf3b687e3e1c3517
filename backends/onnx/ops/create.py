"""Tensors that come from nothing but sizes and numbers."""

from __future__ import annotations

import onnx_ir as ir

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitter


def _filled(number: float | None) -> Emitter:
    """A tensor of given `size` whose elements are `number`, or the argument `fill_value`."""

    def emit(context: Context, call: Call) -> ir.Value:
        filling = call.raw("fill_value") if number is None else number
        return context.op("Expand", [context.operand(filling, call.type.dtype), context.sizes(call.sizes("size"))])

    return emit


def _filled_like(number: float | None) -> Emitter:
    """A tensor shaped like `self` whose elements are `number`, or the argument `fill_value`."""

    def emit(context: Context, call: Call) -> ir.Value:
        filling = call.raw("fill_value") if number is None else number
        node = call.node_at("self")
        sizes = context.sizes([context.size(node, axis) for axis in range(len(call.shape("self")))])
        return context.op("Expand", [context.operand(filling, call.type.dtype), sizes])

    return emit


def _range(context: Context, call: Call) -> ir.Value:
    dtype = call.type.dtype
    start = call.raw("start") if "start" in call.arguments else 0
    step = call.raw("step") if "step" in call.arguments else 1
    return context.op("Range", [context.operand(item, dtype) for item in (start, call.raw("end"), step)])


def _scalar(context: Context, call: Call) -> ir.Value:
    return context.op("Identity", [context.operand(call.raw("s"), call.type.dtype)])


EMITTERS: dict[str, Emitter] = {
    "aten.full": _filled(None),
    "aten.zeros": _filled(0),
    "aten.ones": _filled(1),
    "aten.new_full": _filled(None),
    "aten.new_zeros": _filled(0),
    "aten.new_ones": _filled(1),
    "aten.full_like": _filled_like(None),
    "aten.zeros_like": _filled_like(0),
    "aten.ones_like": _filled_like(1),
    "aten.arange": _range,
    "aten.arange.start": _range,
    "aten.arange.start_step": _range,
    "aten.scalar_tensor": _scalar,
}
