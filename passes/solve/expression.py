"""What a weight can become: one tensor of codes, or a small expression of several.

A solver returns an expression in the shape of the weight's matrix; the driver turns it into nodes. One kind of
expression is one class with three answers: its value, its storage in bits with everything that decoding needs, and
the nodes that compute it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from qcompiler.formats import Integer, scale_format
from qcompiler.ir.program import Builder, Node
from qcompiler.ir.types import TensorType
from qcompiler.passes.solve.rows import row_slices
from qcompiler.spec import Level, QuantSpec, Scales, dequantize

_BYTE = 8
# Elements that are dequantized together.
_SLICE = 1 << 20


class Expression(Protocol):
    """A weight in parts."""

    def value(self) -> Tensor:
        """The real numbers, float32 [rows, columns]."""
        ...

    def bits(self) -> float:
        """Storage in bits: codes, scales, zero points, masks, indices and tables."""
        ...

    def build(self, builder: Builder, name: str) -> Node:
        """Nodes that compute `value`; parameters are called after `name`."""
        ...


@dataclass(frozen=True)
class Codes:
    """Numbers of one spec.

    Args:
        spec: of rank 2.
        codes: grid values in float32 [rows, columns].
        scale: one tensor per level, bare for one level.
        zero_point: None when symmetric.
    """

    spec: QuantSpec
    codes: Tensor
    scale: Scales
    zero_point: Tensor | None = None

    @property
    def scales(self) -> tuple[Tensor, ...]:
        """One tensor per level."""
        return (self.scale,) if isinstance(self.scale, Tensor) else self.scale

    def value(self) -> Tensor:
        """`(codes - zero_point) * scale`."""
        found = torch.empty_like(self.codes)
        for rows in row_slices(self.codes.shape, self.spec, _SLICE):
            scales = tuple(scale[rows] for scale in self.scales)
            zero_point = None if self.zero_point is None else self.zero_point[rows]
            scale = scales[0] if len(scales) == 1 else scales
            found[rows] = dequantize(self.codes[rows], scale, zero_point, self.spec)
        return found

    def bits(self) -> float:
        """Codes, scales of all levels and zero points."""
        zero_points = 0 if self.zero_point is None else self.zero_point.numel()
        scales = sum(
            value.numel() * scale_format(level.scale).bits
            for level, value in zip(self.spec.levels, self.scales, strict=True)
        )
        return (self.codes.numel() + zero_points) * self.spec.bits + scales

    def build(self, builder: Builder, name: str) -> Node:
        """A dequantize node over parameters."""
        type_ = TensorType(self.codes.dtype, tuple(self.codes.shape), self.spec)
        codes = builder.param(f"{name}.codes", self.codes, type_)
        scales = [builder.param(f"{name}.scale", value) for value in self.scales]
        zero_point = None if self.zero_point is None else builder.param(f"{name}.zero_point", self.zero_point)
        return builder.call("qc.dequantize", codes, scales[0] if len(scales) == 1 else scales, zero_point, self.spec)


@dataclass(frozen=True)
class Dense:
    """Reals kept as they are, or rounded to half precision.

    Args:
        reals: float32, or float16 when it is stored so; any shape.
    """

    reals: Tensor

    def value(self) -> Tensor:
        """The numbers in float32."""
        return self.reals.float()

    def bits(self) -> float:
        """16 or 32 per number."""
        return self.reals.numel() * self.reals.element_size() * 8

    def build(self, builder: Builder, name: str) -> Node:
        """A parameter, and a cast when it is stored in half precision."""
        node = builder.param(name, self.reals)
        if self.reals.dtype == torch.float32:
            return node
        return builder.call("aten._to_copy", node, kwargs={"dtype": torch.float32})


@dataclass(frozen=True)
class Whole:
    """Small non-negative whole numbers, such as masks and indices, packed with as many bits as they need.

    Args:
        numbers: int64 of any shape with at least one axis, 0 .. 2^width - 1.
        width: 1 to 16 bits; those above the eighth lie in a plane of their own.
    """

    numbers: Tensor
    width: int

    def value(self) -> Tensor:
        """The numbers in float32."""
        return self.numbers.float()

    def bits(self) -> float:
        """Codes and the scale 1 that makes them numbers."""
        return self.numbers.numel() * self.width + 32

    def build(self, builder: Builder, name: str) -> Node:
        """The numbers as a float tensor."""
        if self.width <= _BYTE or self.width == 2 * _BYTE:
            return self._plane(self.numbers, self.width).build(builder, name)
        low = self._plane(self.numbers % (1 << _BYTE), _BYTE).build(builder, f"{name}.low")
        high = self._plane(self.numbers >> _BYTE, self.width - _BYTE).build(builder, f"{name}.high")
        return builder.call("aten.add.Tensor", low, builder.call("aten.mul.Tensor", high, float(1 << _BYTE)))

    def _plane(self, numbers: Tensor, width: int) -> Codes:
        spec = QuantSpec(Integer(width, signed=False), (Level((-1,) * numbers.dim()),))
        return Codes(spec, numbers.float(), torch.ones([1] * numbers.dim()))

    def indices(self, builder: Builder, name: str) -> Node:
        """The numbers as int64, for lookups."""
        return builder.call("aten._to_copy", self.build(builder, name), kwargs={"dtype": torch.int64})

    def truth(self, builder: Builder, name: str) -> Node:
        """Numbers above zero as true."""
        return builder.call("aten.gt.Scalar", self.build(builder, name), 0.5)


@dataclass(frozen=True)
class Sum:
    """Parts added up, such as bit planes, or a coarse weight and its remainder."""

    parts: tuple[Expression, ...]

    def value(self) -> Tensor:
        """The sum, from left to right."""
        return reduce(torch.add, (part.value() for part in self.parts))

    def bits(self) -> float:
        """Those of the parts."""
        return sum(part.bits() for part in self.parts)

    def build(self, builder: Builder, name: str) -> Node:
        """One addition less than parts."""
        nodes = [part.build(builder, f"{name}.{index}") for index, part in enumerate(self.parts)]
        return reduce(lambda total, node: builder.call("aten.add.Tensor", total, node), nodes)


@dataclass(frozen=True)
class Scaled:
    """A part times a factor that broadcasts to it, such as a scale per row or per column."""

    part: Expression
    factor: Expression

    def value(self) -> Tensor:
        """The product."""
        return self.part.value() * self.factor.value()

    def bits(self) -> float:
        """Those of the part and of the factor."""
        return self.part.bits() + self.factor.bits()

    def build(self, builder: Builder, name: str) -> Node:
        """One multiplication."""
        part = self.part.build(builder, name)
        return builder.call("aten.mul.Tensor", part, self.factor.build(builder, f"{name}.factor"))


@dataclass(frozen=True)
class Select:
    """One of two parts for each element.

    Args:
        mask: bool, broadcastable to the parts.
        chosen: where it is true.
        other: elsewhere.
    """

    mask: Tensor
    chosen: Expression
    other: Expression

    def value(self) -> Tensor:
        """`where(mask, chosen, other)`."""
        return torch.where(self.mask, self.chosen.value(), self.other.value())

    def bits(self) -> float:
        """The mask and what each part stores; parts that hold a code for every element count fully."""
        return self.mask.numel() + self.chosen.bits() + self.other.bits()

    def build(self, builder: Builder, name: str) -> Node:
        """A selection by a packed mask."""
        mask = Whole(self.mask.long(), 1).truth(builder, f"{name}.mask")
        chosen, other = self.chosen.build(builder, f"{name}.chosen"), self.other.build(builder, f"{name}.other")
        return builder.call("aten.where.self", mask, chosen, other)


@dataclass(frozen=True)
class Columns:
    """Parts side by side, each with its own columns of the weight.

    Args:
        parts: [rows, some columns] each.
        order: int64 [columns]: which column of the joined parts stands at each place; None when they lie in order.
    """

    parts: tuple[Expression, ...]
    order: Tensor | None = None

    def value(self) -> Tensor:
        """The columns in their places."""
        joined = torch.cat([part.value() for part in self.parts], 1)
        return joined if self.order is None else joined[:, self.order]

    def bits(self) -> float:
        """Those of the parts, and 16 or 32 per column for its place."""
        places = 0 if self.order is None else self.order.numel() * _index_bits(self.order.numel())
        return sum(part.bits() for part in self.parts) + places

    def build(self, builder: Builder, name: str) -> Node:
        """A concatenation and a choice of columns."""
        nodes = [part.build(builder, f"{name}.{index}") for index, part in enumerate(self.parts)]
        joined = nodes[0] if len(nodes) == 1 else builder.call("aten.cat", nodes, 1)
        if self.order is None:
            return joined
        return builder.call("aten.index_select", joined, 1, builder.param(f"{name}.order", self.order))


@dataclass(frozen=True)
class Lookup:
    """Vectors of a table, by index.

    Args:
        indices: int64 [count], 0 .. entries - 1, of consecutive vectors of the flattened weight.
        table: [entries, length]; its own expression, so that it may be quantized itself.
        shape: of the result.
    """

    indices: Tensor
    table: Expression
    shape: tuple[int, ...]
    entries: int = field(default=0)

    def value(self) -> Tensor:
        """The vectors one after the other in the shape asked for."""
        return self.table.value()[self.indices].reshape(self.shape)

    def bits(self) -> float:
        """Indices with as many bits as the table needs, and the table."""
        return self.indices.numel() * self.width + self.table.bits()

    @property
    def width(self) -> int:
        """Bits of one index."""
        entries = self.entries or int(self.table.value().shape[0])
        return max(1, math.ceil(math.log2(entries))) if entries > 1 else 1

    def build(self, builder: Builder, name: str) -> Node:
        """A lookup and a reshape."""
        indices = Whole(self.indices, self.width).indices(builder, f"{name}.indices")
        found = builder.call("aten.embedding", self.table.build(builder, f"{name}.table"), indices)
        return builder.call("aten.reshape", found, list(self.shape))


@dataclass(frozen=True)
class LowRank:
    """A product of two thin matrices."""

    left: Expression
    right: Expression

    def value(self) -> Tensor:
        """`left @ right`."""
        return self.left.value() @ self.right.value()

    def bits(self) -> float:
        """Those of both."""
        return self.left.bits() + self.right.bits()

    def build(self, builder: Builder, name: str) -> Node:
        """One product."""
        left, right = self.left.build(builder, f"{name}.left"), self.right.build(builder, f"{name}.right")
        return builder.call("aten.matmul", left, right)


@dataclass(frozen=True)
class Sparse:
    """A part of which a few elements are overwritten.

    Args:
        part: the weight without them.
        positions: int64 [count] in the flattened weight.
        reals: [count], float16 or float32.
    """

    part: Expression
    positions: Tensor
    reals: Tensor

    def value(self) -> Tensor:
        """The part with its outliers in place."""
        part = self.part.value()
        return part.flatten().scatter(0, self.positions, self.reals.float()).reshape(part.shape)

    def bits(self) -> float:
        """The part, each number and its place (16 bits of column and row pointers, as compressed rows need)."""
        rows = self.part.value().shape[0]
        return self.part.bits() + self.reals.numel() * (self.reals.element_size() * 8 + 16) + 32 * (rows + 1)

    def build(self, builder: Builder, name: str) -> Node:
        """A scatter into the flattened part."""
        part = self.part.build(builder, name)
        shape = list(self.part.value().shape)
        flat = builder.call("aten.reshape", part, [-1])
        places = builder.param(f"{name}.places", self.positions)
        outliers = Dense(self.reals).build(builder, f"{name}.outliers")
        return builder.call("aten.reshape", builder.call("aten.scatter.src", flat, 0, places, outliers), shape)


def bits_per_weight(expression: Expression) -> float:
    """Storage per element in bits, with everything that decoding needs."""
    return expression.bits() / expression.value().numel()


def join(parts: Sequence[Expression]) -> Expression:
    """The sum of parts; a single one is itself."""
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _index_bits(count: int) -> int:
    return 16 if count <= 1 << 16 else 32
