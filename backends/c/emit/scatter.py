"""Elements written to positions, of a copy of a tensor."""

from __future__ import annotations

from functools import partial

from qcompiler.backends.c.emit.elementwise import operand_at
from qcompiler.backends.c.emit.index import Positions, positions_of
from qcompiler.backends.c.emit.nest import block, declared, names, nested, place
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.loops import Computed
from qcompiler.backends.c.states import written_over
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call

_REDUCED = {
    "sum": "{0} + x",
    "prod": "{0} * x",
    "amax": "({0} < x || x != x ? x : {0})",
    "amin": "(x < {0} || x != x ? x : {0})",
}


def scatter(generator: Generator, call: Call, update: str = "x") -> Emitted:
    """One element of an axis is written for every element of the positions, later ones over earlier ones."""
    out = _copy(generator, call)
    axis = call.axis("dim", len(out.shape))
    positions = generator.contiguous(generator.operand(call.node_at("index")))
    indices = names(len(out.shape))
    target = [
        f"(ptrdiff_t)qc_index(index[{place(positions, indices)}], {out.shape[axis]})" if i == axis else index
        for i, index in enumerate(indices)
    ]
    inputs, element = {"index": positions}, ""
    given = operand_at(generator, call, "src" if "src" in call.arguments else "value", out.element)
    if isinstance(given, str):
        element = given
    else:
        inputs["given"] = generator.settled(given)
        element = f"given[{place(inputs['given'], indices)}]"
    body = [
        f"const ptrdiff_t at = {place(out, target)};",
        f"const {out.element} x = ({out.element}){element};",
        f"out[at] = {update.format('out[at]')};",
    ]
    loops = [(indices[i], size) for i, size in enumerate(positions.shape)]
    block(generator, [*declared(generator, out, inputs), *nested(loops, body)])
    return out


def scatter_reduce(generator: Generator, call: Call) -> Emitted:
    """As `scatter`, combined with what is there."""
    update = _REDUCED.get(call.text("reduce"))
    if update is None or not call.arguments.get("include_self", True):
        raise call.unsupported(f"the reduction {call.text('reduce')}")
    return scatter(generator, call, update)


def _copy(generator: Generator, call: Call) -> Value:
    """Memory that may be written to: that of a state whose old elements nobody reads any more, or a copy."""
    inside = written_over(generator, call.node, call.node_at("self"))
    if inside is not None:
        return inside
    source = generator.operand(call.node_at("self"))
    out = generator.new(source.shape, source.element, None, source.shift)
    generator.loop(out, source)
    return out


def slice_scatter(generator: Generator, call: Call) -> Emitted:
    """A tensor in the place of a range of an axis."""
    out = _copy(generator, call)
    axis = call.axis("dim", len(out.shape))
    size = out.shape[axis]
    start = generator.size(call.size("start", 0))
    start = min(max(start + size if start < 0 else start, 0), size)
    source = generator.operand(call.node_at("src"))
    part = out.sliced(axis, start, source.shape[axis], call.integer("step"))
    generator.loop(part, source)
    return out


def index_put(generator: Generator, call: Call) -> Emitted:
    """Values at positions along leading axes; where a mask is set."""
    given = call.nodes("indices")
    if len(given) == 1 and given[0] is not None and generator.operand(given[0]).element == "uint8_t":
        return _masked(generator, call)
    out = _copy(generator, call)
    found = positions_of(generator, call, given, out.shape)
    values = generator.settled(generator.operand(call.node_at("values"))).expanded(found.shape)
    update = f"out[at] + given[{place(values, names(len(found.shape)))}]"
    body = [
        f"const ptrdiff_t at = {place(out, found.reads)};",
        f"out[at] = {update if call.flag('accumulate') else update.removeprefix('out[at] + ')};",
    ]
    _write(generator, out, {**found.inputs, "given": values}, found, body)
    return out


def _write(generator: Generator, out: Value, inputs: dict[str, Value], found: Positions, body: list[str]) -> None:
    loops = list(zip(names(len(found.shape)), found.shape, strict=True))
    block(generator, [*declared(generator, out, inputs), *nested(loops, body)])


def _masked(generator: Generator, call: Call) -> Emitted:
    source = generator.operand(call.node_at("self"))
    values = generator.settled(generator.operand(call.node_at("values")))
    node = call.nodes("indices")[0]
    if node is None or values.count != 1:
        raise call.unsupported("a mask with more than one value")
    mask = generator.settled(generator.operand(node))
    missing = len(source.shape) - len(mask.shape)
    wide = mask.reshaped((*mask.shape, *[1] * missing)) or mask
    one = values.reshaped((1,) * len(source.shape)) or values
    old = "{0} + " if call.flag("accumulate") else ""
    return generator.fused(
        call.node, Computed(source.element, source.shape, f"({{1}} ? {old}{{2}} : {{0}})", (source, wide, one))
    )


EMITTERS: dict[str, Emitter] = {
    "aten.scatter.src": scatter,
    "aten.scatter.value": scatter,
    "aten.scatter_add": partial(scatter, update="{0} + x"),
    "aten.scatter_reduce.two": scatter_reduce,
    "aten.slice_scatter": slice_scatter,
    "aten.index_put": index_put,
}
