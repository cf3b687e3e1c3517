"""Dequantization of codes that are known, with all that a spec can say, by standard operators.

Formula   (value(code) - zero_point) * scale; codebooks table[index] * scale; scales of scales are multiplied first
Promise   the numbers of `spec.dequantize`, bit for bit
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from qcompiler.backends.lowering.call import Call
from qcompiler.backends.onnx.context import Context
from qcompiler.backends.onnx.dtypes import tight_integer
from qcompiler.backends.onnx.unpack.bits import BYTE, codes_of, stored_bytes
from qcompiler.backends.onnx.unpack.blocks import expanded
from qcompiler.backends.onnx.unpack.reals import HALVES, grid_values, stored_half, stored_scale, stored_zero
from qcompiler.formats import Codebook, Format
from qcompiler.formats.extents import block_counts, in_units_of
from qcompiler.ir.program import Node, all_nodes
from qcompiler.spec import Parts, QuantSpec

Make = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class _Weight:
    """A weight that is written.

    Args:
        context: what it is written into.
        call: its dequantize node.
        make: its codes, grid values in a float carrier.
        spec: its numbers.
        shape: of the codes.
        wide: what is computed in, float32 or wider.
        name: of its initializers.
    """

    context: Context
    call: Call
    make: Make
    spec: QuantSpec
    shape: tuple[int, ...]
    wide: torch.dtype
    name: str


def unpacked(context: Context, call: Call, make: Make, name: str) -> ir.Value:
    """The reals behind a dequantize node whose codes are known.

    Args:
        context: what it is written into.
        call: the node.
        make: its codes, grid values in a float carrier; asked for when the model is written out.
        name: of its initializers.

    Raises:
        UnsupportedError: for numbers of more than 8 bits that are neither indices nor integers of ONNX.
    """
    spec, shape = call.spec(), tuple(int(str(size)) for size in call.shape("codes"))
    wide = torch.promote_types(call.type.dtype, torch.float32)
    weight = _Weight(context, call, make, spec, shape, wide, name)
    if isinstance(spec.format, Codebook):
        elements = tuple(int(str(size)) for size in spec.element_shape(shape))
        value = _entries(weight, spec.format, elements)
    else:
        elements, value = shape, _values(weight)
    zero = call.optional("zero_point")
    if zero is not None and not spec.symmetric:
        value = context.op("Sub", [value, _per_block(weight, _zero(weight, zero), zero, spec.block, elements)])
    value = context.op("Mul", [value, _scale(weight, elements)])
    return context.cast(value, wide, call.type.dtype)


# -- numbers -----------------------------------------------------------------------------------------------------


def _values(weight: _Weight) -> ir.Value:
    """Grid values; segments are stored at their own widths, those of one width together."""
    parts = weight.spec.parts
    if parts is None or not parts.segments:
        return _plain(weight, weight.make, weight.spec.format, weight.shape, weight.name)
    axis = parts.along % len(weight.shape)
    places: dict[Format, list[int]] = {}
    for end, (size, number) in zip(_ends(parts), parts.segments, strict=True):
        places.setdefault(number, []).extend(range(end - size, end))
    pieces = []
    for number, rows in places.items():
        shape = (*weight.shape[:axis], len(rows), *weight.shape[axis + 1 :])
        pieces.append(_plain(weight, _Piece(weight.make, axis, rows), number, shape, f"{weight.name}.{number.name}"))
    order = torch.tensor([row for rows in places.values() for row in rows]).argsort()
    joined = pieces[0] if len(pieces) == 1 else weight.context.op("Concat", pieces, {"axis": axis})
    if torch.equal(order, torch.arange(len(order))):
        return joined
    return weight.context.op("Gather", [joined, weight.context.constant(order.int())], {"axis": axis})


def _ends(parts: Parts) -> list[int]:
    """Where each segment ends."""
    return list(itertools.accumulate(size for size, _ in parts.segments))


@dataclass(frozen=True)
class _Piece:
    """The codes of all segments of one format."""

    make: Make
    axis: int
    rows: Sequence[int]

    def __call__(self) -> torch.Tensor:
        return self.make().index_select(self.axis, torch.tensor(self.rows))


def _plain(weight: _Weight, make: Make, number: Format, shape: Sequence[int], name: str) -> ir.Value:
    if number.storage_bits > BYTE and tight_integer(number, weight.context.opset) is None:
        raise weight.call.unsupported(f"codes of {number.name}", "use a format of at most 8 bits")
    return grid_values(weight.context, make, number, shape, weight.wide, name, weight.call.type.dtype)


# -- codebooks -----------------------------------------------------------------------------------------------------


def _entries(weight: _Weight, codebook: Codebook, elements: tuple[int, ...]) -> ir.Value:
    """The entries of the table that the indices name, in the shape of the tensor."""
    context, parts = weight.context, weight.spec.parts or Parts()
    node = weight.call.node_at("table")
    table, axis = context.program.constant(node), parts.along % len(elements)
    indices = _indices(weight, codebook)
    if parts.table is None or table is None:
        raise weight.call.unsupported("a codebook whose table is computed when it runs", "keep the table constant")
    counts = [int(str(count)) for count in parts.table.counts(elements)]
    if math.prod(counts) > 1:
        block = list(parts.table.block)
        block[axis] = block[axis] if block[axis] == -1 else block[axis] // codebook.dimension
        first = torch.arange(math.prod(counts), dtype=torch.int32).reshape(counts) * codebook.entries
        which = expanded(context, context.constant(first), counts, block, weight.shape)
        indices = context.op("Add", [indices, which])
    rank = len(counts) + 1
    flat = table.reshape(-1, *table.shape[rank:]).float()
    stored = _stored_table(weight, flat, str(node.target))
    found = context.op("Gather", [stored, indices])
    if codebook.dimension == 1:
        return found
    order = list(range(len(elements)))
    order.insert(axis + 1, len(elements))
    turned = found if order == sorted(order) else context.op("Transpose", [found], {"perm": order})
    return context.op("Reshape", [turned, context.ints(elements)])


def _indices(weight: _Weight, codebook: Codebook) -> ir.Value:
    """Indices in their shape, int32; those of more than 8 bits in two rows of bytes."""
    context, bits = weight.context, codebook.bits

    def codes() -> torch.Tensor:
        return codebook.encode(weight.make().reshape(-1))

    found = _row(weight, lambda: codes() & 0xFF, min(bits, BYTE), weight.name)
    if bits > BYTE:
        high = _row(weight, lambda: codes() >> BYTE, bits - BYTE, f"{weight.name}.high")
        ratio = context.scalar(1 << BYTE, torch.int32)
        found = context.op("Add", [found, context.op("Mul", [high, ratio])])
    return context.op("Reshape", [found, context.ints(weight.shape)])


def _row(weight: _Weight, make: Make, bits: int, name: str) -> ir.Value:
    count = math.prod(weight.shape)
    return codes_of(weight.context, stored_bytes(weight.context, make, count, bits, name), bits, count)


def _stored_table(weight: _Weight, table: torch.Tensor, name: str) -> ir.Value:
    """The table in the format of its spec where its values are numbers of it."""
    context, parts = weight.context, weight.spec.parts or Parts()
    stored = parts.table.stored if parts.table else "f32"
    if stored == "i8":
        steps = (table * 127).round()
        if torch.equal(steps / 127, table):
            codes = context.constant(steps.to(torch.int8), name)
            whole = context.op("Cast", [codes], {"to": ir.DataType.FLOAT.value})
            value = context.op("Div", [whole, context.scalar(127, torch.float32)])
            return context.cast(value, torch.float32, weight.wide)
    return stored_half(context, table, HALVES.get(stored, table.dtype), weight.wide, name)


# -- scales ------------------------------------------------------------------------------------------------------


def _scale(weight: _Weight, elements: tuple[int, ...]) -> ir.Value:
    """The product of all levels for every element, in the order of `spec.effective_scale`."""
    context, spec = weight.context, weight.spec
    inner, *outers = all_nodes(weight.call.raw("scale"))
    value, counts = _level(weight, inner, 0), [int(str(count)) for count in block_counts(elements, spec.block)]
    for place, outer in enumerate(outers, start=1):
        block = in_units_of(spec.levels[place].block, spec.block)
        factor = _per_block(weight, _level(weight, outer, place), outer, block, tuple(counts))
        value = context.op("Mul", [value, factor])
    dtype = _scale_dtype(weight, inner)
    if outers:
        smallest = context.scalar(torch.finfo(dtype).tiny, dtype)
        value = context.op("Max", [value, smallest])
    return context.cast(_per_block(weight, value, inner, spec.block, elements), dtype, weight.wide)


def _scale_dtype(weight: _Weight, node: Node) -> torch.dtype:
    return torch.promote_types(weight.context.program.tensor_type(node).dtype, torch.float32)


def _level(weight: _Weight, node: Node, place: int) -> ir.Value:
    context, constant, dtype = weight.context, weight.context.program.constant(node), _scale_dtype(weight, node)
    if constant is None:
        return context.operand(node, dtype)
    stored = weight.spec.levels[place].scale
    key = ("scale", node.name, stored, dtype)
    return context.memo(key, lambda: stored_scale(context, constant, stored, dtype, str(node.target)))


def _zero(weight: _Weight, node: Node) -> ir.Value:
    constant = weight.context.program.constant(node)
    if constant is None:
        return weight.context.operand(node, weight.wide)
    return stored_zero(weight.context, constant, weight.spec.format, weight.wide, str(node.target))


def _per_block(weight: _Weight, value: ir.Value, node: Node, block: Sequence[int], shape: tuple[int, ...]) -> ir.Value:
    """A value per block for every element; a single one serves tensors of any rank."""
    given = [int(str(size)) for size in weight.context.program.shape(node)]
    if math.prod(given) == 1:
        return value if len(given) <= len(shape) else weight.context.op("Reshape", [value, weight.context.ints([])])
    counts = [int(str(count)) for count in block_counts(shape, tuple(block))]
    return expanded(weight.context, value, counts, block, shape)
