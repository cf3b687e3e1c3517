"""Sums, means and extremes over axes. Sums run in one order on every level: element after element of the reduced axes,
outermost first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.number import float_text
from qcompiler.backends.c.value import Element, Value, row_major
from qcompiler.backends.lowering.call import Call


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
    strides = row_major([source.shape[axis] for axis in kept])
    names = {axis: f"i{axis}" for axis in range(len(source.shape))}
    lines = [f"const {source.element} *in = {generator.pointer(source)};", f"{element} *out = {generator.pointer(out)};"]
    depth = 0
    for axis in kept:
        lines.append(f"{'    ' * depth}for (size_t {names[axis]} = 0; {names[axis]} < {source.shape[axis]}; ++{names[axis]}) {{")
        depth += 1
    lines.append(f"{'    ' * depth}{accumulator or element} sum = {start};")
    inner = depth
    for axis in sorted(axes):
        lines.append(f"{'    ' * inner}for (size_t {names[axis]} = 0; {names[axis]} < {source.shape[axis]}; ++{names[axis]}) {{")
        inner += 1
    place = " + ".join(f"{names[axis]} * {stride}" for axis, stride in enumerate(source.strides)) or "0"
    lines += [f"{'    ' * inner}const {source.element} x = in[{place}];", f"{'    ' * inner}{step}"]
    lines += ["    " * level + "}" for level in reversed(range(depth, inner))]
    target = " + ".join(f"{names[axis]} * {stride}" for axis, stride in zip(kept, strides, strict=True)) or "0"
    lines.append(f"{'    ' * depth}out[{target}] = ({element})sum;")
    lines += ["    " * level + "}" for level in reversed(range(depth))]
    generator.write("{", *(f"    {line}" for line in lines), "}")
    return out


def integer_sum(generator: Generator, source: Value, axes: Sequence[int], zero: int, shape: Sequence[int]) -> Value:
    """`sum (q - z)` in int32."""
    return fold(generator, source, axes, shape, "int32_t", "0", f"sum += (int32_t)x - {zero};")


def total(generator: Generator, call: Call) -> Emitted:
    """A sum."""
    element, _ = generator.element(call.type)
    return _reduced(generator, call, element, "0", f"sum += ({element})x;")


def mean(generator: Generator, call: Call) -> Emitted:
    """A sum divided by the number of its terms."""
    source = generator.settled(generator.operand(call.node_at("self")))
    axes = call.axes("dim", len(source.shape)) if "dim" in call.arguments else list(range(len(source.shape)))
    count = math.prod(source.shape[axis] for axis in axes)
    added = fold(generator, source, axes, generator.shape(call.node), "float", "0.0f", "sum += x;")
    return generator.fused(call.node, Computed("float", added.shape, f"{{0}} / {float_text(count)}", (added,)))


def extreme(sign: str, generator: Generator, call: Call) -> Emitted:
    """The largest or smallest element; not a number wins."""
    element, _ = generator.element(call.type)
    infinite = {"float": "INFINITY", "double": "INFINITY", "int64_t": "INT64_MAX", "int32_t": "INT32_MAX"}
    limit = infinite.get(element, "127")
    start = f"-{limit}" if sign == ">" else limit
    return _reduced(generator, call, element, start, f"sum = x {sign} sum || x != x ? x : sum;")


def product(generator: Generator, call: Call) -> Emitted:
    """A product."""
    element, _ = generator.element(call.type)
    return _reduced(generator, call, element, "1", f"sum *= ({element})x;")


def position(sign: str, generator: Generator, call: Call) -> Emitted:
    """Where the first extreme element stands along an axis."""
    source = generator.settled(generator.operand(call.node_at("self")))
    if call.raw("dim") is None:
        source = generator.contiguous(source).reshaped((source.count,)) or source
    axis = call.axis("dim", len(source.shape)) if call.raw("dim") is not None else 0
    step = f"if (!any || x {sign} best) {{ best = x; sum = i{axis}; any = 1; }}"
    start = f"0; {source.element} best = 0; int any = 0"
    return fold(generator, source, [axis], generator.shape(call.node), "int64_t", start, step, "size_t")


def _reduced(generator: Generator, call: Call, element: Element, start: str, step: str) -> Emitted:
    source = generator.settled(generator.operand(call.node_at("self")))
    axes = call.axes("dim", len(source.shape)) if call.arguments.get("dim") is not None else list(range(len(source.shape)))
    return fold(generator, source, axes, generator.shape(call.node), element, start, step)


EMITTERS: dict[str, Emitter] = {
    "aten.sum": total,
    "aten.sum.dim_IntList": total,
    "aten.mean": mean,
    "aten.mean.dim": mean,
    "aten.amax": partial(extreme, ">"),
    "aten.amin": partial(extreme, "<"),
    "aten.max": partial(extreme, ">"),
    "aten.min": partial(extreme, "<"),
    "aten.prod": product,
    "aten.prod.dim_int": product,
    "aten.argmax": partial(position, ">"),
    "aten.argmin": partial(position, "<"),
}
