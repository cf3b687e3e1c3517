"""Elements picked by positions that other tensors hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcompiler.backends.c.emit.nest import block, declared, each, names, nested, place
from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.value import Value, broadcast
from qcompiler.backends.lowering.call import Call
from qcompiler.ir.program import Node

_INTEGERS = ("int64_t", "int32_t")


@dataclass(frozen=True)
class Positions:
    """Elements of a tensor at positions along some of its axes.

    Args:
        shape: of what is picked.
        reads: the index along each axis of the tensor, in terms of the indices `i0`, `i1`, ... of what is picked.
        inputs: tensors of positions, by the names that `reads` uses.
    """

    shape: tuple[int, ...]
    reads: Sequence[str]
    inputs: Mapping[str, Value]


def positions_of(generator: Generator, call: Call, given: Sequence[Node | None], shape: Sequence[int]) -> Positions:
    """Positions by axis, None for a whole one; what they pick stands in their place if they are neighbours, else first.

    Raises:
        UnsupportedError: for a mask, whose result has a size that only a run can tell.
    """
    found = {axis: generator.settled(generator.operand(node)) for axis, node in enumerate(given) if node is not None}
    if any(value.element not in _INTEGERS for value in found.values()):
        raise call.unsupported("a mask, which makes a result of unknown size")
    picked = broadcast(*(value.shape for value in found.values()))
    axes = sorted(found)
    together = axes == list(range(axes[0], axes[-1] + 1))
    first = axes[0] if together else 0
    kept = [axis for axis in range(len(shape)) if axis not in found]
    before = [axis for axis in kept if axis < first] if together else []
    rest = [axis for axis in kept if axis not in before]
    result = (*(shape[axis] for axis in before), *picked, *(shape[axis] for axis in rest))
    index = dict(zip([*before, *rest], [*range(first), *range(first + len(picked), len(result))], strict=True))
    own = [f"i{first + i}" for i in range(len(picked))]
    reads: list[str] = []
    for axis, size in enumerate(shape):
        if axis in found:
            at = place(found[axis].expanded(picked), own)
            reads.append(f"(ptrdiff_t)qc_index(at{axis}[{at}], {size})")
        else:
            reads.append(f"i{index[axis]}")
    return Positions(result, reads, {f"at{axis}": value for axis, value in found.items()})


def rows(generator: Generator, source: Value, indices: Value, axis: int, shape: tuple[int, ...]) -> Value:
    """Slices of `axis` at flat `indices`, in the place of that axis; negative positions count from the end."""
    out = generator.new(shape, source.element, None, source.shift)
    outer, inner = math.prod(source.shape[:axis]), math.prod(source.shape[axis + 1 :])
    copy = [
        f"const ptrdiff_t row = (ptrdiff_t)qc_index(index[j], {source.shape[axis]});",
        f"memcpy(out + (i * {indices.count} + j) * {inner}, in + (i * {source.shape[axis]} + row) * {inner},",
        f"       {inner} * sizeof *out);",
    ]
    lines = declared(generator, out, {"in": source, "index": indices})
    block(generator, [*lines, *nested([("i", outer), ("j", indices.count)], copy)])
    return out


def embedding(generator: Generator, call: Call) -> Emitted:
    """Rows of a table."""
    table = generator.contiguous(generator.operand(call.node_at("weight")))
    indices = generator.contiguous(generator.operand(call.node_at("indices")))
    return rows(generator, table, indices, 0, generator.shape(call.node))


def index_select(generator: Generator, call: Call) -> Emitted:
    """Slices of an axis."""
    source = generator.contiguous(generator.operand(call.node_at("self")))
    indices = generator.contiguous(generator.operand(call.node_at("index")))
    return rows(generator, source, indices, call.axis("dim", len(source.shape)), generator.shape(call.node))


def index(generator: Generator, call: Call) -> Emitted:
    """Elements at tensors of positions for some axes."""
    given = call.nodes("indices")
    axes = [axis for axis, node in enumerate(given) if node is not None]
    operand = generator.operand(call.node_at("self"))
    if len(axes) == 1 and (node := given[axes[0]]) is not None and generator.operand(node).element in _INTEGERS:
        source, indices = generator.contiguous(operand), generator.contiguous(generator.operand(node))
        return rows(generator, source, indices, axes[0], generator.shape(call.node))
    source = generator.settled(operand)
    found = positions_of(generator, call, given, source.shape)
    out = generator.new(found.shape, source.element, None, source.shift)
    body = [f"out[{place(out, names(len(found.shape)))}] = in[{place(source, found.reads)}];"]
    each(generator, out, {"in": source, **found.inputs}, body)
    return out


def gather(generator: Generator, call: Call) -> Emitted:
    """One element of an axis for every element of the positions."""
    source = generator.settled(generator.operand(call.node_at("self")))
    indices = generator.settled(generator.operand(call.node_at("index")))
    if not source.shape:
        return source
    axis = call.axis("dim", len(source.shape))
    shape = generator.shape(call.node)
    out = generator.new(shape, source.element, None, source.shift)
    own = names(len(shape))
    picked = f"(ptrdiff_t)qc_index(index[{place(indices, own)}], {source.shape[axis]})"
    reads = [picked if i == axis else name for i, name in enumerate(own)]
    each(generator, out, {"in": source, "index": indices}, [f"out[{place(out, own)}] = in[{place(source, reads)}];"])
    return out


EMITTERS: dict[str, Emitter] = {
    "aten.embedding": embedding,
    "aten.index_select": index_select,
    "aten.index.Tensor": index,
    "aten.gather": gather,
}
