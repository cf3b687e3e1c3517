"""Elements picked by positions that other tensors hold."""

from __future__ import annotations

import math

from qcompiler.backends.c.generator import Emitted, Emitter, Generator
from qcompiler.backends.c.value import Value
from qcompiler.backends.lowering.call import Call


def rows(generator: Generator, source: Value, indices: Value, axis: int, shape: tuple[int, ...]) -> Value:
    """Slices of `axis` at flat `indices`, in the place of that axis; negative positions count from the end."""
    out = generator.new(shape, source.element, None, source.shift)
    outer, inner = math.prod(source.shape[:axis]), math.prod(source.shape[axis + 1 :])
    lines = [
        f"const {source.element} *in = {generator.pointer(source)};",
        f"const {indices.element} *index = {generator.pointer(indices)};",
        f"{source.element} *out = {generator.pointer(out)};",
        f"for (size_t i = 0; i < {outer}; ++i)",
        f"    for (size_t j = 0; j < {indices.count}; ++j) {{",
        f"        const size_t row = qc_index(index[j], {source.shape[axis]});",
        f"        memcpy(out + (i * {indices.count} + j) * {inner}, in + (i * {source.shape[axis]} + row) * {inner},",
        f"               {inner} * sizeof *out);",
        "    }",
    ]
    generator.write("{", *(f"    {line}" for line in lines), "}")
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
    """Slices of one axis by a tensor of positions of any shape."""
    given = call.nodes("indices")
    axes = [axis for axis, node in enumerate(given) if node is not None]
    if len(axes) != 1:
        raise call.unsupported("positions for more than one axis")
    node = given[axes[0]]
    source = generator.contiguous(generator.operand(call.node_at("self")))
    if node is None or generator.operand(node).element == "uint8_t":
        raise call.unsupported("a mask, which makes a result of unknown size")
    return rows(generator, source, generator.contiguous(generator.operand(node)), axes[0], generator.shape(call.node))


def gather(generator: Generator, call: Call) -> Emitted:
    """One element of an axis for every element of the positions."""
    source = generator.settled(generator.operand(call.node_at("self")))
    indices = generator.contiguous(generator.operand(call.node_at("index")))
    axis = call.axis("dim", len(source.shape))
    shape = generator.shape(call.node)
    out = generator.new(shape, source.element, None, source.shift)
    lines = [
        f"const {source.element} *in = {generator.pointer(source)};",
        f"const {indices.element} *index = {generator.pointer(indices)};",
        f"{source.element} *out = {generator.pointer(out)};",
    ]
    for depth, size in enumerate(shape):
        lines.append(f"{'    ' * depth}for (size_t i{depth} = 0; i{depth} < {size}; ++i{depth}) {{")
    flat = " + ".join(f"i{depth} * {stride}" for depth, stride in enumerate(out.strides))
    places = [f"i{depth} * {stride}" for depth, stride in enumerate(source.strides) if depth != axis]
    picked = f"qc_index(index[{flat}], {source.shape[axis]}) * {source.strides[axis]}"
    tab = "    " * len(shape)
    lines.append(f"{tab}out[{flat}] = in[{' + '.join([*places, picked])}];")
    lines += ["    " * depth + "}" for depth in reversed(range(len(shape)))]
    generator.write("{", *(f"    {line}" for line in lines), "}")
    return out


EMITTERS: dict[str, Emitter] = {
    "aten.embedding": embedding,
    "aten.index_select": index_select,
    "aten.index.Tensor": index,
    "aten.gather": gather,
}
