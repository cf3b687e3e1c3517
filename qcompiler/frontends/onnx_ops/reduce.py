"""ONNX reductions, sorting and running sums as ATen calls."""

from __future__ import annotations

from collections.abc import Callable

import torch

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


def extreme(op: str) -> Operator:
    """ReduceMax and ReduceMin; of nothing they yield the lowest or highest number."""

    def emit(ctx: OpContext) -> Result:
        x, axes, keep = _reduction(ctx)
        if not axes:
            return x
        if all(ctx.shape(x)[axis] != 0 for axis in axes):
            return ctx.call(op, x, axes, keep)
        shape = [ctx.size(dim) for dim in ctx.shape(x)]
        kept = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
        return ctx.call("aten.full", kept, _end_of(ctx.dtype(x), op == "aten.amin"), kwargs={"dtype": ctx.dtype(x)})

    return emit


def _end_of(dtype: torch.dtype, highest: bool) -> float | int | bool:
    if dtype == torch.bool:
        return highest
    if dtype.is_floating_point:
        return float("inf") if highest else float("-inf")
    return torch.iinfo(dtype).max if highest else torch.iinfo(dtype).min


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
    """ArgMax and ArgMin, first or last index on ties."""

    def emit(ctx: OpContext) -> Result:
        x = ctx.tensor(0)
        axis, keep = ctx.axis(ctx.integer("axis", 0), ctx.rank(x)), bool(ctx.integer("keepdims", 1))
        if not ctx.integer("select_last_index", 0):
            return ctx.call(op, x, axis, keep)
        first = ctx.call(op, ctx.call("aten.flip", x, [axis]), axis, keep)
        last = ctx.static(ctx.shape(x)[axis], "an axis searched from its end") - 1
        return ctx.call("aten.add.Tensor", ctx.call("aten.neg", first), last)

    return emit


def top_k(ctx: OpContext) -> Result:
    """TopK, the first index first on ties; k is an attribute before opset 10, an input since."""
    x = ctx.tensor(0)
    count = ctx.integer("k") if ctx.version < 10 else ctx.size(ctx.dims(1, "k")[0])
    axis = ctx.axis(ctx.integer("axis", -1), ctx.rank(x))
    largest = bool(ctx.integer("largest", 1))
    ctx.integer("sorted", 1)
    ordered = ctx.items(ctx.call("aten.sort.stable", x, kwargs={"stable": True, "dim": axis, "descending": largest}), 2)
    return [ctx.call("aten.slice.Tensor", part, axis, 0, count, 1) for part in ordered]


def running(op: str, neutral: int) -> Operator:
    """CumSum and CumProd, also from the end (`reverse`) and without the own element (`exclusive`)."""
    return lambda ctx: _running(ctx, op, neutral)


def _running(ctx: OpContext, op: str, neutral: int) -> Result:
    x = ctx.tensor(0)
    axis = ctx.axis(ctx.ints(1, "the axis")[0], ctx.rank(x))
    if ctx.integer("reverse", 0):
        x = ctx.call("aten.flip", x, [axis])
    if ctx.integer("exclusive", 0):
        leading = [0, 0] * (ctx.rank(x) - 1 - axis)
        x = ctx.call(
            "aten.constant_pad_nd", ctx.call("aten.slice.Tensor", x, axis, 0, -1, 1), [*leading, 1, 0], neutral
        )
    summed = ctx.cast(ctx.call(op, x, axis), ctx.dtype(x))
    return ctx.call("aten.flip", summed, [axis]) if ctx.integer("reverse", 0) else summed


REDUCE: dict[str, Operator] = {
    "ArgMax": extreme_index("aten.argmax"),
    "ArgMin": extreme_index("aten.argmin"),
    "CumProd": running("aten.cumprod", 1),
    "CumSum": running("aten.cumsum", 0),
    "ReduceL1": norm(1),
    "ReduceL2": norm(2),
    "ReduceLogSum": log_sum,
    "ReduceLogSumExp": reduction("aten.logsumexp"),
    "ReduceMax": extreme("aten.amax"),
    "ReduceMean": reduction("aten.mean.dim"),
    "ReduceMin": extreme("aten.amin"),
    "ReduceProd": product,
    "ReduceSum": total,
    "ReduceSumSquare": sum_square,
    "TopK": top_k,
}
