"""Sums, means and extremes over axes.

Sums run in one order on every level: of rows that lie side by side in sixteen lanes, as `qc_row_sum` says; else element
after element of the reduced axes, outermost first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from qcompiler.backends.c.emit.nest import block, declared, names, nested, place
from qcompiler.backends.c.extent import Extent
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed, Operand
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Element, Value, row_major
from qcompiler.backends.lowering.call import Call

_HIGHEST: dict[Element, str] = {
    "float": "INFINITY",
    "double": "INFINITY",
    "int64_t": "INT64_MAX",
    "int32_t": "INT32_MAX",
    "int16_t": "INT16_MAX",
    "int8_t": "INT8_MAX",
    "uint8_t": "UINT8_MAX",
}
_LOWEST: dict[Element, str] = {
    "float": "-INFINITY",
    "double": "-INFINITY",
    "int64_t": "INT64_MIN",
    "int32_t": "INT32_MIN",
    "int16_t": "INT16_MIN",
    "int8_t": "INT8_MIN",
    "uint8_t": "0",
}


def fold(
    generator: Generator,
    source: Value,
    axes: Sequence[int],
    shape: Sequence[int],
    element: Element,
    start: str,
    step: str,
    accumulator: str = "",
) -> Value:
    """One accumulator per kept index.

    Args:
        generator: takes the layer.
        source: what is reduced.
        axes: that go.
        shape: of the result.
        element: of the result.
        start: first value of the accumulator.
        step: statement that folds `x` into `sum`.
        accumulator: C type of the accumulator; that of the result by default.
    """
    kept = [axis for axis in range(len(source.shape)) if axis not in axes]
    out = generator.new(shape, element)
    view = Value(out.buffer, element, source.shape, _kept_strides(source.shape, kept))
    indices = names(len(source.shape))
    outer = [(indices[axis], source.shape[axis]) for axis in kept]
    inner = [(indices[axis], source.shape[axis]) for axis in sorted(axes)]
    read = f"const {source.element} x = in[{place(source, indices)}];"
    target = f"out[{place(view, indices)}]"
    lines = declared(generator, out, {"in": source})
    if not accumulator and _by_columns(source, axes):
        lines += nested(outer, [f"{target} = {start};"])
        lines += nested([*inner, *outer], [read, f"{element} sum = {target};", step, f"{target} = sum;"])
    else:
        result = f"{target} = sum;" if not accumulator else f"{target} = ({element})sum;"
        lines += nested(outer, [f"{accumulator or element} sum = {start};", *nested(inner, [read, step]), result])
    block(generator, lines)
    return out


def _kept_strides(shape: Sequence[int], kept: Sequence[int]) -> tuple[int, ...]:
    strides = dict(zip(kept, row_major([shape[axis] for axis in kept]), strict=True))
    return tuple(strides.get(axis, 0) for axis in range(len(shape)))


def _by_columns(source: Value, axes: Sequence[int]) -> bool:
    """Whether results that lie side by side read elements that do, so that compilers vectorise over results."""
    axis = next((axis for axis in reversed(source.order) if source.shape[axis] > 1), None)
    return axis is not None and axis not in axes and source.strides[axis] == 1


def added(generator: Generator, operand: Operand, axes: Sequence[int], shape: Sequence[int]) -> Value:
    """The sum of floats over axes."""
    source = generator.settled(operand)
    kept = [axis for axis in range(len(source.shape)) if axis not in axes]
    width = math.prod(source.shape[axis] for axis in axes)
    rows = source.permuted([*kept, *sorted(axes)]).reshaped((math.prod(source.shape[axis] for axis in kept), width))
    if rows is None or rows.strides[1] != 1 or width == 1:
        return fold(generator, source, axes, shape, "float", "0.0f", "sum += x;")
    out = generator.new(shape, "float")
    body = [f"out[i] = qc_row_sum(in + i * {rows.strides[0]}, {width});"]
    block(generator, [*declared(generator, out, {"in": rows}), *nested([("i", rows.shape[0])], body)])
    return out


def axes_of(call: Call, rank: int) -> list[int]:
    """The reduced axes; all of them when none are named."""
    return call.axes("dim", rank) if call.raw("dim") is not None else list(range(rank))


def _source(generator: Generator, call: Call) -> tuple[Operand, list[int]]:
    source = generator.operand(call.node_at("self"))
    return source, axes_of(call, len(source.shape))


def total(generator: Generator, call: Call) -> Emitted:
    """A sum."""
    element, _ = generator.element(call.type)
    source, axes = _source(generator, call)
    shape = generator.shape(call.node)
    if element == "float":
        return added(generator, _as_float(source), axes, shape)
    return fold(generator, generator.settled(source), axes, shape, element, "0", f"sum += ({element})x;")


def _as_float(source: Operand) -> Operand:
    return source if source.element == "float" else Computed("float", source.shape, "{0}", (source,))


def mean(generator: Generator, call: Call) -> Emitted:
    """A sum divided by the number of its terms."""
    source, axes = _source(generator, call)
    return generator.fused(call.node, _mean(generator, source, axes, generator.shape(call.node)))


def _mean(generator: Generator, source: Operand, axes: Sequence[int], shape: tuple[int, ...]) -> Computed:
    count = math.prod(source.shape[axis] for axis in axes)
    found = added(generator, _as_float(source), axes, shape)
    return Computed("float", shape, f"{{0}} / {count_text(count)}", (found,))


def count_text(count: int) -> str:
    """A number of elements as a float."""
    return f"(float){count}" if isinstance(count, Extent) else float_text(count)


def variance(generator: Generator, call: Call, template: str = "{0}") -> Emitted:
    """The mean square of what is left after the mean is taken off, divided by the count less a correction."""
    operand, axes = _source(generator, call)
    source = generator.settled(operand)
    shape = generator.shape(call.node)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(source.shape))
    count = math.prod(source.shape[axis] for axis in axes)
    centre = generator.settled(_mean(generator, source, axes, kept))
    apart = Computed("float", source.shape, "{0} - {1}", (source, centre))
    squares = Computed("float", source.shape, "{0} * {0}", (apart,))
    correction = call.number("correction", 1.0)
    if isinstance(count, Extent):
        taken = float_text(correction)
        divisor = f"((float){count} > {taken} ? (float){count} - {taken} : 0.0f)"
    else:
        divisor = float_text(max(count - correction, 0.0))
    found = added(generator, squares, axes, shape)
    text = template.format(f"({{0}} / {divisor})")
    return generator.fused(call.node, Computed("float", shape, text, (found,)))


def vector_norm(generator: Generator, call: Call) -> Emitted:
    """`(sum |x|^p)^(1/p)`; the largest or smallest magnitude for p infinite, how many are not zero for p = 0."""
    source, axes = _source(generator, call)
    shape = generator.shape(call.node)
    order = call.number("ord", 2.0)
    if math.isinf(order):
        sign, start = (">", "0.0f") if order > 0 else ("<", "INFINITY")
        magnitude = generator.settled(Computed("float", source.shape, "qc_abs({0})", (source,)))
        step = f"sum = x {sign} sum || x != x ? x : sum;"
        return fold(generator, magnitude, axes, shape, "float", start, step)
    terms = {0.0: "({0} != 0.0f ? 1.0f : 0.0f)", 1.0: "qc_abs({0})", 2.0: "{0} * {0}"}
    ends = {0.0: "{0}", 1.0: "{0}", 2.0: "sqrtf({0})"}
    term = terms.get(order, f"qc_pow(qc_abs({{0}}), {float_text(order)})")
    found = added(generator, Computed("float", source.shape, term, (source,)), axes, shape)
    end = ends.get(order) or f"qc_pow({{0}}, {float_text(1.0 / order)})"
    return generator.fused(call.node, Computed("float", shape, end, (found,)))


def log_sum_exp(generator: Generator, call: Call) -> Emitted:
    """`m + log(sum exp(x - m))`, m the largest element, or 0 when that is infinite."""
    operand, axes = _source(generator, call)
    source = generator.settled(operand)
    shape = generator.shape(call.node)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(source.shape))
    peak = fold(generator, source, axes, kept, "float", "-INFINITY", "sum = x > sum || x != x ? x : sum;")
    level = Computed("float", kept, "({0} == INFINITY || {0} == -INFINITY ? 0.0f : {0})", (peak,))
    level = generator.settled(level)
    powers = Computed("float", source.shape, "qc_exp({0} - {1})", (source, level))
    found = added(generator, powers, axes, shape)
    wide = level.reshaped(shape)
    if wide is None:
        raise call.unsupported("its axes cannot be taken off")
    return generator.fused(call.node, Computed("float", shape, "{1} + qc_log({0})", (found, wide)))


def extreme(sign: str, generator: Generator, call: Call) -> Emitted:
    """The largest or smallest element; not a number wins."""
    element, shift = generator.element(call.type)
    operand, axes = _source(generator, call)
    if shift or element == "qc_act":
        raise call.unsupported("codes")
    start = (_LOWEST if sign == ">" else _HIGHEST)[element]
    step = f"sum = x {sign} sum || x != x ? x : sum;"
    return fold(generator, generator.settled(operand), axes, generator.shape(call.node), element, start, step)


def with_position(sign: str, generator: Generator, call: Call) -> Emitted:
    """The largest or smallest element along an axis, and where the first such stands."""
    source = generator.settled(generator.operand(call.node_at("self")))
    axis = call.axis("dim", len(source.shape))
    kept = bool(call.raw("keepdim"))
    shape = tuple(1 if i == axis else size for i, size in enumerate(source.shape) if i != axis or kept)
    start = (_LOWEST if sign == ">" else _HIGHEST)[source.element]
    step = f"sum = x {sign} sum || x != x ? x : sum;"
    values = fold(generator, source, [axis], shape, source.element, start, step)
    return [values, _first(generator, source, axis, shape, sign)]


def _first(generator: Generator, source: Value, axis: int, shape: Sequence[int], sign: str) -> Value:
    step = f"if (!any || x {sign} best || (x != x && best == best)) {{ best = x; sum = i{axis}; any = 1; }}"
    start = f"0; {source.element} best = 0; int any = 0"
    return fold(generator, source, [axis], shape, "int64_t", start, step, "ptrdiff_t")


def product(generator: Generator, call: Call) -> Emitted:
    """A product."""
    element, _ = generator.element(call.type)
    source, axes = _source(generator, call)
    shape = generator.shape(call.node)
    return fold(generator, generator.settled(source), axes, shape, element, "1", f"sum *= ({element})x;")


def truth(start: str, step: str, generator: Generator, call: Call) -> Emitted:
    """Whether any, or all, elements are not zero."""
    source, axes = _source(generator, call)
    return fold(generator, generator.settled(source), axes, generator.shape(call.node), "uint8_t", start, step)


def position(sign: str, generator: Generator, call: Call) -> Emitted:
    """Where the first extreme element stands along an axis."""
    source = generator.settled(generator.operand(call.node_at("self")))
    if call.raw("dim") is None:
        source = generator.contiguous(source).reshaped((source.count,)) or source
    axis = call.axis("dim", len(source.shape)) if call.raw("dim") is not None else 0
    return _first(generator, source, axis, generator.shape(call.node), sign)


_ANY = partial(truth, "0", "sum |= x != 0;")
_ALL = partial(truth, "1", "sum &= x != 0;")
EMITTERS: dict[str, Emitter] = {
    "aten.sum": total,
    "aten.sum.dim_IntList": total,
    "aten.mean": mean,
    "aten.mean.dim": mean,
    "aten.var.correction": variance,
    "aten.std.correction": partial(variance, template="sqrtf({0})"),
    "aten.linalg_vector_norm": vector_norm,
    "aten.logsumexp": log_sum_exp,
    "aten.amax": partial(extreme, ">"),
    "aten.amin": partial(extreme, "<"),
    "aten.max": partial(extreme, ">"),
    "aten.min": partial(extreme, "<"),
    "aten.max.dim": partial(with_position, ">"),
    "aten.min.dim": partial(with_position, "<"),
    "aten.any": _ANY,
    "aten.any.dim": _ANY,
    "aten.any.dims": _ANY,
    "aten.all": _ALL,
    "aten.all.dim": _ALL,
    "aten.all.dims": _ALL,
    "aten.prod": product,
    "aten.prod.dim_int": product,
    "aten.argmax": partial(position, ">"),
    "aten.argmin": partial(position, "<"),
}
