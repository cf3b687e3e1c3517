"""Every operator with a weight as a matrix product: the weight as [rows, columns], what it reads as rows of columns.

A convolution multiplies the patches of its input, a transposed one the patches of its input with zeros between the
elements, by the mirrored kernel. Groups are products of their own over their share of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from qcompiler.analysis.weights import CONVOLUTIONS, TRANSPOSED
from qcompiler.ir.program import Node, Program
from qcompiler.passes.solve.expression import Expression
from qcompiler.spec import QuantSpec, Scales
from qcompiler.stats import Stream

_PLANAR = 2


@dataclass(frozen=True)
class Geometry:
    """How an operator's weight is a matrix; hashable, so that layers that read alike can be found.

    Args:
        kernel: taps along each spatial axis, none for a linear.
        stride: see the operator.
        padding: see the operator.
        dilation: see the operator.
        output_padding: of a transposed convolution.
        groups: see the operator.
        transposed: whether it is a transposed convolution.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as [rows, columns], rows of one group after the other."""
        if not self.transposed:
            return weight.reshape(weight.shape[0], -1)
        axes = list(range(3, 3 + len(self.kernel)))
        grouped = weight.unflatten(0, (self.groups, -1)).flip(axes).transpose(1, 2)
        return grouped.reshape(self.groups * weight.shape[1], -1)

    def weight(self, matrix: Tensor) -> Tensor:
        """Inverse of `matrix` for a tensor of its shape; [rows, columns] to the operator's shape."""
        if not self.kernel:
            return matrix
        taps = math.prod(self.kernel)
        shaped = matrix.reshape(matrix.shape[0], matrix.shape[1] // taps, *self.kernel)
        if not self.transposed:
            return shaped
        axes = list(range(3, 3 + len(self.kernel)))
        grouped = shaped.unflatten(0, (self.groups, -1)).transpose(1, 2).flip(axes)
        return grouped.reshape(-1, *grouped.shape[2:])

    def spec(self, spec: QuantSpec) -> QuantSpec | None:
        """The spec of the matrix, with the same scales in the same order; None where blocks are no rectangles of it."""
        levels = []
        for level in spec.levels:
            block = self._block(level.block)
            if block is None:
                return None
            levels.append(replace(level, block=block))
        return replace(spec, levels=tuple(levels))

    def _block(self, block: tuple[int, ...]) -> tuple[int, int] | None:
        if len(block) == _PLANAR:
            return (block[0], block[1])
        if any(extent != -1 for extent in block[2:]):
            return None
        rows, columns = (block[1], block[0]) if self.transposed else (block[0], block[1])
        if self.transposed and self.groups > 1 and (rows, columns) != (-1, -1):
            return None
        return rows, columns if columns == -1 else columns * math.prod(self.kernel)

    def rows(self, x: Tensor) -> Tensor:
        """What the matrix multiplies: [groups, rows read, columns of a group], float32."""
        if not self.kernel:
            return x.reshape(1, -1, x.shape[-1]).float()
        planar = len(self.kernel) + 2
        x = (x if x.dim() == planar else x.unsqueeze(0)).float()
        x = self._spread(x) if self.transposed else x
        padding, stride = (
            ((0,) * len(self.kernel), (1,) * len(self.kernel))
            if self.transposed
            else (
                self.padding,
                self.stride,
            )
        )
        if len(self.kernel) == 1:
            patches = functional.unfold(
                x.unsqueeze(2), (1, *self.kernel), (1, *self.dilation), (0, *padding), (1, *stride)
            )
        else:
            patches = functional.unfold(x, self.kernel, self.dilation, padding, stride)
        return patches.unflatten(1, (self.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)

    def _spread(self, x: Tensor) -> Tensor:
        """The input of a transposed convolution as an ordinary one would read it."""
        spatial = range(2, x.dim())
        sizes = [(x.shape[axis] - 1) * step + 1 for axis, step in zip(spatial, self.stride, strict=True)]
        spread = x.new_zeros((*x.shape[:2], *sizes))
        spread[(..., *(slice(None, None, step) for step in self.stride))] = x
        borders: list[int] = []
        for tap, gap, cut, extra in zip(
            self.kernel[::-1], self.dilation[::-1], self.padding[::-1], self.output_padding[::-1], strict=True
        ):
            before = gap * (tap - 1) - cut
            borders += [before, before + extra]
        return functional.pad(spread, borders)


def geometry_of(program: Program, node: Node) -> Geometry | None:
    """How an operator's weight is a matrix; None for other operators and for convolutions of volumes."""
    op, bound = program.op(node), program.bind(node) if node.op == "call_function" else {}
    if op == "aten.linear":
        return Geometry()
    axes = CONVOLUTIONS.get(op, TRANSPOSED.get(op))
    if axes is None or axes > _PLANAR or isinstance(bound.get("padding"), str):
        return None
    kernel = tuple(int(str(size)) for size in program.shape(cast(Node, bound["weight"]))[2:])

    def sizes(name: str, default: int) -> tuple[int, ...]:
        value = bound.get(name, default)
        numbers = [int(str(item)) for item in value] if isinstance(value, list | tuple) else [int(str(value))]
        return tuple(numbers * axes if len(numbers) == 1 else numbers)

    return Geometry(
        kernel,
        sizes("stride", 1),
        sizes("padding", 0),
        sizes("dilation", 1),
        sizes("output_padding", 0),
        int(str(bound["groups"])),
        op in TRANSPOSED,
    )


class Inputs:
    """What the layers that read one value see of it, in each stream; moments are computed once for all of them.

    Args:
        values: the value in each batch, by stream.
        geometry: of the layers.
        weights: per batch what each row counts, [rows] with mean 1; None when all count alike.
    """

    def __init__(
        self,
        values: Callable[[Stream], list[Tensor]],
        geometry: Geometry,
        weights: Sequence[Tensor] | None = None,
    ) -> None:
        self._values = values
        self.geometry = geometry
        self._weights = weights

    def rows(self, stream: Stream = "quantized") -> Iterator[Tensor]:
        """Per batch [groups, rows, columns] float32, times the root of what each row counts."""
        for number, value in enumerate(self._values(stream)):
            rows = self.geometry.rows(value)
            yield rows if self._weights is None else rows * self._weights[number].sqrt()[:, None]

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Per batch the same rows in the float and in the quantized stream."""
        yield from zip(self.rows("float"), self.rows("quantized"), strict=True)

    @cached_property
    def count(self) -> int:
        """Rows per group over all batches."""
        return sum(rows.shape[1] for rows in self.rows())

    @cached_property
    def second_moment(self) -> Tensor:
        """`2/N sum x x^T` of the quantized stream: [groups, columns, columns] float32."""
        return _moment((rows, rows) for rows in self.rows())

    @cached_property
    def cross_moment(self) -> Tensor:
        """`2/N sum x~ x^T`, x~ of the float and x of the quantized stream: [groups, columns, columns] float32."""
        return _moment(self.pairs())

    @cached_property
    def pair_moment(self) -> Tensor:
        """`2/N sum d d^T`, d the difference of the first and second sample of a batch, of the third and fourth, ...

        Shape [groups, columns, columns] float32.
        """
        values = (value for value in self._values("quantized") if value.shape[0] > 1)
        pairs = ((value[0 : len(value) // 2 * 2 : 2], value[1::2]) for value in values)
        differences = (self.geometry.rows(left - right) for left, right in pairs)
        return _moment((rows, rows) for rows in differences)


def _moment(pairs: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    total, count = torch.zeros(()), 0
    for left, right in pairs:
        total = total + left.transpose(1, 2) @ right
        count += left.shape[1]
    return total * (2.0 / max(count, 1))


@dataclass(frozen=True)
class Layer:
    """One weight to be solved, as a matrix.

    Args:
        name: of the operator that reads it.
        weight: float32 [rows, columns].
        groups: of rows that read different columns of the input.
        spec: of rank 2; blocks are rectangles of the matrix.
        inputs: what it multiplies.
        qparams: scale and zero point that an earlier pass has set, None when the solver chooses.
        seed: of every random choice.
    """

    name: str
    weight: Tensor
    groups: int
    spec: QuantSpec
    inputs: Inputs
    qparams: tuple[Scales, Tensor | None] | None = None
    seed: int = 0


LayerSolver = Callable[[Layer], Expression]
"""What a method of the layer-wise families is: a layer to its expression of [rows, columns]."""
