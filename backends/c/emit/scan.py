"""What goes along an axis in order: running sums and products, sorting."""

from __future__ import annotations

from functools import partial

from qcompiler.backends.c.emit.nest import block, declared, names, nested, place
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call

_SORTED = ("float", "int64_t", "int32_t", "uint8_t")


def running(sign: str, generator: Generator, call: Call) -> Emitted:
    """Every result is the one before it and one more element."""
    element, _ = generator.element(call.type)
    source = generator.settled(generator.operand(call.node_at("self")))
    if not source.shape:
        return source
    axis = call.axis("dim", len(source.shape))
    out = generator.new(source.shape, element, source.order)
    indices = names(len(source.shape))
    others = [(indices[i], source.shape[i]) for i in source.order if i != axis]
    target, read = f"out[{place(out, indices)}]", f"({element})in[{place(source, indices)}]"
    earlier = f"out[{place(out, indices)} - {out.strides[axis]}]"
    rest = nested([(indices[axis], source.shape[axis])], nested(others, [f"{target} = {earlier} {sign} {read};"]))
    rest[0] = rest[0].replace(f"{indices[axis]} = 0", f"{indices[axis]} = 1")
    start = [indices[i] if i != axis else "0" for i in range(len(indices))]
    first = nested(others, [f"out[{place(out, start)}] = ({element})in[{place(source, start)}];"])
    block(generator, [*declared(generator, out, {"in": source}), *first, *rest])
    return out


def ordered(
    generator: Generator, call: Call, source: Value, axis: int, count: int, *, descending: bool
) -> tuple[Value, Value]:
    """The first `count` elements along an axis when it is sorted, and where they stood."""
    if source.element not in _SORTED:
        raise call.unsupported(f"the order of {source.element}")
    size = source.shape[axis]
    shape = [count if i == axis else each for i, each in enumerate(source.shape)]
    values, positions = generator.new(shape, source.element, None, source.shift), generator.new(shape, "int64_t")
    order, spare = generator.new((max(size, 1),), "int64_t"), generator.new((max(size, 1),), "int64_t")
    indices = names(len(shape))
    start = ["0" if i == axis else index for i, index in enumerate(indices)]
    picked = [f"order[{indices[axis]}]" if i == axis else index for i, index in enumerate(indices)]
    take = [
        f"position[{place(positions, indices)}] = order[{indices[axis]}];",
        f"out[{place(values, indices)}] = in[{place(source, picked)}];",
    ]
    row = f"in + {place(source, start)}"
    body = [
        f"qc_sort_{source.element}({row}, {source.strides[axis]}, {size}, {int(descending)}, order, spare);",
        *nested([(indices[axis], count)], take),
    ]
    lines = declared(generator, values, {"in": source})
    lines += [f"int64_t *{name} = {generator.pointer(value)};" for name, value in (
        ("position", positions), ("order", order), ("spare", spare),
    )]  # fmt: skip
    outer = [(indices[i], each) for i, each in enumerate(source.shape) if i != axis]
    block(generator, [*lines, *nested(outer, body)])
    return values, positions


def sort(generator: Generator, call: Call) -> Emitted:
    """Elements of an axis in order, and where each stood."""
    return list(_sorted(generator, call))


def argsort(generator: Generator, call: Call) -> Emitted:
    """Where the elements of an axis stand when they are in order."""
    return _sorted(generator, call)[1]


def _sorted(generator: Generator, call: Call) -> tuple[Value, Value]:
    source = _rows(generator, call)
    axis = call.axis("dim", len(source.shape))
    return ordered(generator, call, source, axis, source.shape[axis], descending=call.flag("descending"))


def largest(generator: Generator, call: Call) -> Emitted:
    """The largest or smallest elements of an axis, in order, and where each stood."""
    source = _rows(generator, call)
    axis, count = call.axis("dim", len(source.shape)), generator.size(call.size("k", 1))
    return list(ordered(generator, call, source, axis, count, descending=call.flag("largest")))


def _rows(generator: Generator, call: Call) -> Value:
    source = generator.settled(generator.operand(call.node_at("self")))
    return source if source.shape else source.reshaped((1,)) or source


EMITTERS: dict[str, Emitter] = {
    "aten.cumsum": partial(running, "+"),
    "aten.cumprod": partial(running, "*"),
    "aten.sort": sort,
    "aten.sort.stable": sort,
    "aten.argsort": argsort,
    "aten.argsort.stable": argsort,
    "aten.topk": largest,
}
