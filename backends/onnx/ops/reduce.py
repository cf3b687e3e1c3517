"""Reductions and running sums."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context, Emitted, Emitter


def _axes(call: Call) -> list[int]:
    return call.axes("dim", len(call.shape("self")))


def _reduction(kind: str) -> Emitter:
    """A reduction over `dim` (all axes when absent), computed in the dtype of the result."""

    def emit(context: Context, call: Call) -> ir.Value:
        value = context.operand(call.node_at("self"), call.type.dtype)
        return reduced(context, kind, value, _axes(call), keep=call.flag("keepdim"))

    return emit


def reduced(context: Context, kind: str, value: ir.Value, axes: list[int], *, keep: bool) -> ir.Value:
    """One ONNX reduction over static axes."""
    return context.op(kind, [value, context.ints(axes)], {"keepdims": int(keep), "noop_with_empty_axes": 1})


def _mean(context: Context, call: Call) -> ir.Value:
    value = context.operand(call.node_at("self"), call.type.dtype)
    axes = _axes(call)
    if len(call.shape("self")) == 4 and sorted(axes) == [2, 3] and call.flag("keepdim"):
        return context.op("GlobalAveragePool", [value])
    return reduced(context, "ReduceMean", value, axes, keep=call.flag("keepdim"))


def _extreme_with_index(kind: str, index_kind: str) -> Emitter:
    def emit(context: Context, call: Call) -> Emitted:
        value, axes = context.value(call.node_at("self")), _axes(call)
        keep = call.flag("keepdim")
        index = context.op(index_kind, [value], {"axis": axes[0], "keepdims": int(keep)})
        return [reduced(context, kind, value, axes, keep=keep), index]

    return emit


def _position(kind: str) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        value = context.value(call.node_at("self"))
        if call.raw("dim") is not None:
            axis = call.axis("dim", len(call.shape("self")))
            return context.op(kind, [value], {"axis": axis, "keepdims": int(call.flag("keepdim"))})
        flat = context.op("Reshape", [value, context.ints([-1])])
        index = context.op(kind, [flat], {"axis": 0, "keepdims": 0})
        return context.op("Reshape", [index, context.ints([1] * call.type.rank)]) if call.type.rank else index

    return emit


def _truth(kind: str) -> Emitter:
    def emit(context: Context, call: Call) -> ir.Value:
        truth = context.operand(call.node_at("self"), torch.bool)
        counts = context.cast(truth, torch.bool, torch.int32)
        return context.cast(
            reduced(context, kind, counts, _axes(call), keep=call.flag("keepdim")), torch.int32, torch.bool
        )

    return emit


def _running_sum(context: Context, call: Call) -> ir.Value:
    value = context.operand(call.node_at("self"), call.type.dtype)
    return context.op("CumSum", [value, context.scalar(call.axis("dim", call.type.rank), torch.int64)])


def _running_product(context: Context, call: Call) -> ir.Value:
    """Products of all leading parts, side by side: ONNX has no running product before opset 26."""
    rank, dtype = call.type.rank, call.type.dtype
    axis = call.axis("dim", rank)
    length = call.shape("self")[axis]
    if not isinstance(length, int):
        raise call.unsupported("a running product along a symbolic axis", "give that axis a fixed size")
    value = context.operand(call.node_at("self"), dtype)
    repeated = context.op("Unsqueeze", [value, context.ints([axis])])
    mask = torch.ones(length, length).tril().bool().reshape([length, length] + [1] * (rank - 1 - axis))
    parts = context.op("Where", [context.constant(mask), repeated, context.scalar(1, dtype)])
    return reduced(context, "ReduceProd", parts, [axis + 1], keep=False)


def _variance(context: Context, call: Call) -> ir.Value:
    value, axes, dtype = context.value(call.node_at("self")), _axes(call), call.type.dtype
    mean = reduced(context, "ReduceMean", value, axes, keep=True)
    centred = context.op("Sub", [value, mean])
    squares = context.op("Mul", [centred, centred])
    keep, correction = call.flag("keepdim"), call.number("correction", 1)
    if correction == 0:
        return reduced(context, "ReduceMean", squares, axes, keep=keep)
    total = reduced(context, "ReduceSum", squares, axes, keep=keep)
    return context.op("Div", [total, _corrected_count(context, call, axes, correction, dtype)])


def _corrected_count(context: Context, call: Call, axes: list[int], correction: float, dtype: torch.dtype) -> ir.Value:
    sizes = [size for size in (call.shape("self")[axis] for axis in axes) if isinstance(size, int)]
    if len(sizes) == len(axes):
        return context.scalar(max(math.prod(sizes) - correction, 0), dtype)
    counted = context.sizes([context.size(call.node_at("self"), axis) for axis in axes])
    count = context.cast(reduced(context, "ReduceProd", counted, [0], keep=False), torch.int64, dtype)
    return context.op("Sub", [count, context.scalar(correction, dtype)])


def _deviation(context: Context, call: Call) -> ir.Value:
    return context.op("Sqrt", [_variance(context, call)])


def _vector_norm(context: Context, call: Call) -> ir.Value:
    value = context.operand(call.node_at("self"), call.type.dtype)
    order, axes, keep = call.number("ord", 2), _axes(call), call.flag("keepdim")
    if order in (1, 2):
        return reduced(context, "ReduceL1" if order == 1 else "ReduceL2", value, axes, keep=keep)
    magnitude = context.op("Abs", [value])
    if math.isinf(order):
        return reduced(context, "ReduceMax" if order > 0 else "ReduceMin", magnitude, axes, keep=keep)
    dtype = call.type.dtype
    total = reduced(context, "ReduceSum", context.op("Pow", [magnitude, context.scalar(order, dtype)]), axes, keep=keep)
    return context.op("Pow", [total, context.scalar(1 / order, dtype)])


EMITTERS: dict[str, Emitter] = {
    "aten.mean": _mean,
    "aten.mean.dim": _mean,
    "aten.sum": _reduction("ReduceSum"),
    "aten.sum.dim_IntList": _reduction("ReduceSum"),
    "aten.prod": _reduction("ReduceProd"),
    "aten.prod.dim_int": _reduction("ReduceProd"),
    "aten.amax": _reduction("ReduceMax"),
    "aten.amin": _reduction("ReduceMin"),
    "aten.max": _reduction("ReduceMax"),
    "aten.min": _reduction("ReduceMin"),
    "aten.logsumexp": _reduction("ReduceLogSumExp"),
    "aten.max.dim": _extreme_with_index("ReduceMax", "ArgMax"),
    "aten.min.dim": _extreme_with_index("ReduceMin", "ArgMin"),
    "aten.argmax": _position("ArgMax"),
    "aten.argmin": _position("ArgMin"),
    **{f"aten.any{overload}": _truth("ReduceMax") for overload in ("", ".dim", ".dims")},
    **{f"aten.all{overload}": _truth("ReduceMin") for overload in ("", ".dim", ".dims")},
    "aten.cumprod": _running_product,
    "aten.cumsum": _running_sum,
    "aten.var.correction": _variance,
    "aten.std.correction": _deviation,
    "aten.linalg_vector_norm": _vector_norm,
}
