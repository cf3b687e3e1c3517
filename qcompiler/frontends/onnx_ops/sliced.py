"""Slices whose bounds the data tell: as many elements are picked as lie between them."""

from __future__ import annotations

import torch

from qcompiler.frontends.onnx_ops.context import OpContext
from qcompiler.frontends.onnx_ops.counted import positions
from qcompiler.ir.program import Node


def has_data_bounds(ctx: OpContext) -> bool:
    """Whether a start or an end of a Slice is computed from data."""
    return any(ctx.has(index) and isinstance(ctx.value(index), Node) for index in (1, 2))


def slice_by_data(ctx: OpContext) -> Node:
    """Slice with computed starts and ends, over known axes with known positive steps."""
    x, starts, ends = ctx.tensor(0), ctx.tensor(1), ctx.tensor(2)
    count = ctx.static(ctx.shape(starts)[0], "the number of starts")
    axes = ctx.ints(3, "the axes") if ctx.has(3) else list(range(count))
    steps = ctx.ints(4, "the steps") if ctx.has(4) else [1] * count
    if min(steps, default=1) < 1:
        raise ctx.refuse("a backward slice must have constant bounds, here they depend on data")
    for index, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        start, end = (ctx.call("aten.select.int", bounds, 0, index) for bounds in (starts, ends))
        x = _between(ctx, x, ctx.axis(axis, ctx.rank(x)), start, end, step)
    return x


def _between(ctx: OpContext, x: Node, axis: int, start: Node, end: Node, step: int) -> Node:
    size = ctx.size(ctx.shape(x)[axis])
    places = ctx.call("aten.arange.start_step", 0, size, 1, kwargs={"dtype": torch.int64})
    first, last = (_from_front(ctx, ctx.cast(bound, torch.int64), size) for bound in (start, end))
    inside = ctx.call(
        "aten.logical_and", ctx.call("aten.ge.Tensor", places, first), ctx.call("aten.lt.Tensor", places, last)
    )
    if step > 1:
        offset = ctx.call("aten.remainder.Scalar", ctx.call("aten.sub.Tensor", places, first), step)
        inside = ctx.call("aten.logical_and", inside, ctx.call("aten.eq.Scalar", offset, 0))
    picked = ctx.call("aten.select.int", positions(ctx, inside), 1, 0)
    result = ctx.call("aten.index_select", x, axis, picked)
    ctx.emitter.remember_shape(result)
    return result


def _from_front(ctx: OpContext, bound: Node, size: int | Node) -> Node:
    """A bound counted from the front, not below 0."""
    behind = ctx.call("aten.lt.Scalar", bound, 0)
    counted = ctx.call("aten.where.self", behind, ctx.call("aten.add.Tensor", bound, size), bound)
    return ctx.call("aten.clamp", counted, 0)
