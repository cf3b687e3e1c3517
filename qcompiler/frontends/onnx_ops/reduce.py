"""ONNX reductions, sorting and running sums as ATen calls."""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.frontends.onnx_ops.context import OpContext, Result
from qcompiler.frontends.onnx_ops.layout import axes_of
from qcompiler.ir.program import Node

Operator = Callable[[OpContext], Result]
_AXES_AS_INPUT_SINCE = {"ReduceSum": 13}


def _reduction(ctx: OpContext) -> tuple[Node, list[int], bool]:
    x = ctx.tensor(0)
    axes = axes_of(ctx, _AXES_AS_INPUT_SINCE.get(ctx.node.op_type, 18))
    if not axes and ctx.integer("noop_with_empty_axes", 0):
        axes = []
    elif not axes:
        axes = list(range(ctx.rank(x)))
    axes = sorted(ctx.axis(axis, ctx.rank(x)) for axis in axes)
    return x, axes, bool(ctx.integer("keepdims", 1))


def reduction(op: str) -> Operator:
    """A reduction whose ATen form takes a list of axes."""

    def emit(ctx: OpContext) -> Result:
        x, axes, keep = _reduction(ctx)
        return ctx.call(op, x, axes, keep) if axes else x

    return emit


def product(ctx: OpContext) -> Result:
    """ReduceProd, one axis at a time."""
    x, axes, keep = _reduction(ctx)
    dtype = ctx.dtype(x)
    for axis in reversed(axes):
        x = ctx.call("aten.prod.dim_int", x, axis, keep)
    return ctx.cast(x, dtype)


def total(ctx: OpContext) -> Result:
    """ReduceSum, in the element type of its input."""
    x, axes, keep = _reduction(ctx)
    return ctx.cast(ctx.call("aten.sum.dim_IntList", x, axes, keep), ctx.dtype(x)) if axes else x


def norm(order: int) -> Operator:
    """ReduceL1 and ReduceL2."""

    def emit(ctx: OpContext) -> Result:
        x, axes, keep = _reduction(ctx)
        return ctx.call("aten.linalg_vector_norm", x, order, axes, keep) if axes else ctx.call("aten.abs", x)

    return emit


def log_sum(ctx: OpContext) -> Result:
    """ReduceLogSum."""
    x, axes, keep = _reduction(ctx)
    return ctx.call("aten.log", ctx.call("aten.sum.dim_IntList", x, axes, keep) if axes else x)


def sum_square(ctx: OpContext) -> Result:
    """ReduceSumSquare."""
    x, axes, keep = _reduction(ctx)
    squared = ctx.call("aten.pow.Tensor_Scalar", x, 2)
    return ctx.call("aten.sum.dim_IntList", squared, axes, keep) if axes else squared


def extreme_index(op: str) -> Operator:
    """ArgMax and ArgMin, first index on ties."""

    def emit(ctx: OpContext) -> Result:
        if ctx.integer("select_last_index", 0):
            raise ctx.refuse("select_last_index is not supported")
        x = ctx.tensor(0)
        return ctx.call(op, x, ctx.axis(ctx.integer("axis", 0), ctx.rank(x)), bool(ctx.integer("keepdims", 1)))

    return emit


def top_k(ctx: OpContext) -> Result:
    """TopK: k is an attribute before opset 10, an input since."""
    x = ctx.tensor(0)
    count = ctx.integer("k") if ctx.version < 10 else ctx.size(ctx.dims(1, "k")[0])
    axis = ctx.axis(ctx.integer("axis", -1), ctx.rank(x))
    largest, ordered = bool(ctx.integer("largest", 1)), bool(ctx.integer("sorted", 1))
    return ctx.items(ctx.call("aten.topk", x, count, axis, largest, ordered), 2)


def running_sum(ctx: OpContext) -> Result:
    """CumSum, also from the end (`reverse`) and without the own element (`exclusive`)."""
    x = ctx.tensor(0)
    axis = ctx.axis(ctx.ints(1, "the axis")[0], ctx.rank(x))
    if ctx.integer("reverse", 0):
        x = ctx.call("aten.flip", x, [axis])
    if ctx.integer("exclusive", 0):
        leading = [0, 0] * (ctx.rank(x) - 1 - axis)
        x = ctx.call("aten.constant_pad_nd", ctx.call("aten.slice.Tensor", x, axis, 0, -1, 1), [*leading, 1, 0], 0)
    summed = ctx.cast(ctx.call("aten.cumsum", x, axis), ctx.dtype(x))
    return ctx.call("aten.flip", summed, [axis]) if ctx.integer("reverse", 0) else summed


REDUCE: dict[str, Operator] = {
    "ArgMax": extreme_index("aten.argmax"),
    "ArgMin": extreme_index("aten.argmin"),
    "CumSum": running_sum,
    "ReduceL1": norm(1),
    "ReduceL2": norm(2),
    "ReduceLogSum": log_sum,
    "ReduceLogSumExp": reduction("aten.logsumexp"),
    "ReduceMax": reduction("aten.amax"),
    "ReduceMean": reduction("aten.mean.dim"),
    "ReduceMin": reduction("aten.amin"),
    "ReduceProd": product,
    "ReduceSum": total,
    "ReduceSumSquare": sum_square,
    "TopK": top_k,
}
