"""What weights of one or two bits are made of: planes of signs, and numbers per row and block of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcompiler.formats import BINARY, TERNARY, Integer
from qcompiler.ir.program import Builder, Node
from qcompiler.passes.solve.expression import Codes, Dense, Expression, Scaled, Whole
from qcompiler.spec import Level, QuantSpec

_LARGEST, _SMALLEST = 32768.0, 2.0**-10


@dataclass(frozen=True)
class Spread:
    """Numbers of blocks of columns, each for every column of its block.

    Args:
        part: [rows or 1, blocks].
        index: int64 [columns], ascending: the block of each column.
    """

    part: Expression
    index: Tensor

    def value(self) -> Tensor:
        """`part[:, index]`."""
        return self.part.value()[:, self.index]

    def bits(self) -> float:
        """Those of the numbers, and 16 per block for its width."""
        return self.part.bits() + 16 * self.part.value().shape[1]

    def build(self, builder: Builder, name: str) -> Node:
        """A choice of columns."""
        part = self.part.build(builder, name)
        return builder.call("aten.index_select", part, 1, builder.param(f"{name}.block", self.index))


@dataclass(frozen=True)
class Partition:
    """Signs with one of two scales and shifts for each element.

    Args:
        signs: 1 or -1 [rows, columns].
        mask: bool [rows, columns]: which elements are of the first kind.
        scales: of the first and of the second kind, broadcastable to the signs.
        shifts: of the first and of the second kind.
    """

    signs: Expression
    mask: Tensor
    scales: tuple[Expression, Expression]
    shifts: tuple[Expression, Expression]

    def value(self) -> Tensor:
        """`signs * where(mask, scales) + where(mask, shifts)`."""
        scale = torch.where(self.mask, self.scales[0].value(), self.scales[1].value())
        return self.signs.value() * scale + torch.where(self.mask, self.shifts[0].value(), self.shifts[1].value())

    def bits(self) -> float:
        """One for each sign, one for each element of the mask, and the numbers."""
        return self.signs.bits() + self.mask.numel() + sum(part.bits() for part in (*self.scales, *self.shifts))

    def build(self, builder: Builder, name: str) -> Node:
        """Two selections by one mask, a product and a sum."""
        mask = Whole(self.mask.long(), 1).truth(builder, f"{name}.mask")
        scales = [part.build(builder, f"{name}.scale{index}") for index, part in enumerate(self.scales)]
        shifts = [part.build(builder, f"{name}.shift{index}") for index, part in enumerate(self.shifts)]
        signs = self.signs.build(builder, name)
        scaled = builder.call("aten.mul.Tensor", signs, builder.call("aten.where.self", mask, *scales))
        return builder.call("aten.add.Tensor", scaled, builder.call("aten.where.self", mask, *shifts))


def signs(x: Tensor) -> Codes:
    """The signs of a matrix as a plane of one bit; zero counts as positive."""
    ones = torch.ones_like(x, dtype=torch.float32)
    return Codes(QuantSpec(BINARY, (Level((-1, -1)),)), torch.where(x < 0, -ones, ones), torch.ones(1, 1))


def trits(x: Tensor) -> Codes:
    """A matrix of -1, 0 and 1 as two bits each."""
    return Codes(QuantSpec(TERNARY, (Level((-1, -1)),)), x.float(), torch.ones(1, 1))


def ones_and_zeros(x: Tensor) -> Codes:
    """A matrix of 0 and 1 as a plane of one bit."""
    return Codes(QuantSpec(Integer(1, signed=False), (Level((-1, -1)),)), x.float(), torch.ones(1, 1))


def halves(x: Tensor) -> Expression:
    """Reals of any shape in half precision; numbers outside its comfortable range get one more factor for all."""
    sizes = x.abs()[x != 0]
    if sizes.numel() == 0 or (sizes.max() <= _LARGEST and sizes.max() >= _SMALLEST):
        return Dense(x.to(torch.float16))
    unit = torch.exp2(sizes.max().log2().floor()).reshape([1] * x.dim()).float()
    return Scaled(Dense((x / unit).to(torch.float16)), Dense(unit))


def per_block(blocks: Sequence[Tensor], index: Tensor) -> Expression:
    """Numbers per row and block in half precision; `blocks` are [rows] each, `index` the block of each column."""
    return Spread(halves(torch.stack(list(blocks), 1)), index)


def rounded(x: Tensor) -> Tensor:
    """What `halves` keeps of numbers."""
    return halves(x).value()
