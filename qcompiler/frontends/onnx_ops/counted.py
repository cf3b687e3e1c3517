"""ONNX operators whose results have as many elements as the data say: their first axis is a symbol of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from qcompiler.frontends.onnx_ops.context import Known, OpContext, Result, Value
from qcompiler.ir.program import Node
from qcompiler.ir.types import Dim, TensorType, TupleType, Type

Operator = Callable[[OpContext], Result]

_HINT = 2


def nonzero(ctx: OpContext) -> Result:
    """NonZero: positions `[rank, count]` of the elements that are not zero."""
    known = ctx.known(0)
    if known is not None:
        return Known(ctx.name, torch.nonzero(known).t().contiguous())
    return ctx.call("aten.permute", positions(ctx, ctx.tensor(0)), [1, 0])


def positions(ctx: OpContext, x: Node) -> Node:
    """Positions `[count, rank]` of the elements that are not zero."""
    return _declared(ctx, "aten.nonzero", x, type_=TensorType(torch.int64, (_fresh(ctx), ctx.rank(x))))


def compress(ctx: OpContext) -> Result:
    """Compress: the slices, or elements of the flat tensor, for which a condition holds."""
    x, condition = ctx.tensor(0), ctx.known(1)
    axis = ctx.attribute("axis")
    if axis is None:
        x = ctx.call("aten.reshape", x, [-1])
    place = 0 if axis is None else ctx.axis(axis.as_int(), ctx.rank(x))
    if condition is not None:
        return ctx.call("aten.index_select", x, place, ctx.reform(1, "places", torch.nonzero(condition).reshape(-1)))
    picked = ctx.call("aten.select.int", positions(ctx, ctx.tensor(1)), 1, 0)
    result = ctx.call("aten.index_select", x, place, picked)
    ctx.emitter.remember_shape(result)
    return result


def unique(ctx: OpContext) -> Result:
    """Unique: distinct elements or slices, where each came first, which one each element is, how often each occurs."""
    known = ctx.known(0)
    x = ctx.tensor(0)
    axis = ctx.attribute("axis")
    if axis is None:
        x = ctx.call("aten.reshape", x, [-1])
    place = 0 if axis is None else ctx.axis(axis.as_int(), ctx.rank(x))
    if known is not None and not ctx.shape(x):
        raise ctx.refuse("a constant of rank 0 is not supported")
    count: Dim = _fresh(ctx)
    shape = ctx.shape(x)
    types = (
        TensorType(ctx.dtype(x), (*shape[:place], count, *shape[place + 1 :])),
        TensorType(torch.int64, (shape[place],)),
        TensorType(torch.int64, (count,)),
    )
    values, inverse, counts = ctx.items(
        _declared(ctx, "aten.unique_dim", x, place, True, True, True, type_=TupleType(types)), 3
    )
    ctx.emitter.remember_shape(counts)
    results: list[Value | None] = [values, None, inverse, counts]
    if len(ctx.node.outputs) == 1 and ctx.integer("sorted", 1):
        return results
    steps = ctx.call("aten.arange.start_step", 0, ctx.size(shape[place]), 1, kwargs={"dtype": torch.int64})
    last = ctx.call("aten.add.Tensor", ctx.call("aten.zeros_like", counts), ctx.size(shape[place]))
    first = ctx.call("aten.scatter_reduce.two", last, 0, inverse, steps, "amin")
    if ctx.integer("sorted", 1):
        return [values, first, inverse, counts]
    order = ctx.items(ctx.call("aten.sort.stable", first, kwargs={"stable": True, "dim": 0, "descending": False}), 2)[1]
    ranks = ctx.items(ctx.call("aten.sort.stable", order, kwargs={"stable": True, "dim": 0, "descending": False}), 2)[1]
    return [
        ctx.call("aten.index_select", values, place, order),
        ctx.call("aten.index_select", first, 0, order),
        ctx.call("aten.index_select", ranks, 0, inverse),
        ctx.call("aten.index_select", counts, 0, order),
    ]


def suppress(ctx: OpContext) -> Result:
    """NonMaxSuppression: image, class and number of each box that is kept."""
    boxes, scores = ctx.tensor(0), ctx.tensor(1)
    settings: list[Node | int | float] = [
        ctx.call("aten.reshape", ctx.tensor(index), []) if ctx.has(index) else default
        for index, default in ((2, 0), (3, 0.0))
    ]
    least = ctx.call("aten.reshape", ctx.tensor(4), []) if ctx.has(4) else None
    centred = bool(ctx.integer("center_point_box", 0))
    type_ = TensorType(torch.int64, (_fresh(ctx), 3))
    return _declared(ctx, "qc.non_max_suppression", boxes, scores, *settings, least, centred, type_=type_)


def _fresh(ctx: OpContext) -> Dim:
    """A dimension that only a run can tell."""
    return ctx.emitter.program.dimensions.fresh(_HINT)


def _declared(ctx: OpContext, op: str, *args: object, type_: Type) -> Node:
    """A call whose type cannot be inferred; its dimensions can be read from it."""
    node = ctx.emitter.call(op, *args, type_=type_)
    if isinstance(type_, TensorType):
        ctx.emitter.remember_shape(node)
    return node


COUNTED: dict[str, Operator] = {
    "Compress": compress,
    "NonMaxSuppression": suppress,
    "NonZero": nonzero,
    "Unique": unique,
}
