"""Changes of basis as products of cheap factors: what a method answers, what folds into weights, what runs online.

Formula   rows become `x T`; whoever reads them undoes it with `W T^-T`, its contrary
Shapes    rows [..., size]
Source    the identity `(x T) (W T^-T)^T = x W^T`, common to SmoothQuant, QuaRot, FlatQuant, AffineQuant
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from qcompiler.errors import VerifyError
from qcompiler.hadamard import additions, multiply
from qcompiler.ir.program import Builder, Node

_ORTHOGONAL = 1e-10


class Factor(Protocol):
    """An invertible linear map of rows."""

    @property
    def orthogonal(self) -> bool:
        """Whether the map is its own contrary."""
        ...

    @property
    def additions(self) -> float:
        """Additions or multiply-adds per element when it runs online."""
        ...

    def times(self, rows: Tensor) -> Tensor:
        """`rows T`, in the dtype of the rows."""
        ...

    def contrary(self, rows: Tensor) -> Tensor:
        """`rows T^-T`."""
        ...

    def rounded(self, dtype: torch.dtype) -> Factor:
        """The map with its numbers rounded to the dtype in which it is stored, in float64: what really runs online."""
        ...

    def insert(self, builder: Builder, value: Node, label: str) -> Node:
        """Adds a node that computes `value T` on the last axis; parameters are called after the label."""
        ...


@dataclass(frozen=True, eq=False)
class Hadamard:
    """Signs, then a normalised Hadamard matrix on consecutive blocks.

    Args:
        block: order of the matrix.
        signs: [size] of plus and minus one; None for all plus.
    """

    block: int
    signs: Tensor | None = None
    orthogonal: bool = True

    @property
    def additions(self) -> float:
        """With butterflies."""
        return additions(self.block)

    def times(self, rows: Tensor) -> Tensor:
        """`rows D H / sqrt(block)`."""
        return multiply(rows if self.signs is None else rows * self.signs.to(rows), self.block)

    def contrary(self, rows: Tensor) -> Tensor:
        """The same: it is orthogonal."""
        return self.times(rows)

    def rounded(self, dtype: torch.dtype) -> Factor:
        """The same: ones are exact."""
        return self

    def insert(self, builder: Builder, value: Node, label: str) -> Node:
        """One `qc.hadamard`."""
        signs = None if self.signs is None else _param(builder, value, f"{label}.signs", self.signs)
        return builder.call("qc.hadamard", value, signs, self.block, name=f"{value.name}_turned")


@dataclass(frozen=True, eq=False)
class Kronecker:
    """`left ⊗ right`.

    Args:
        left: [a, a]; None for the identity.
        right: [b, b]; None for the identity.
    """

    left: Tensor | None
    right: Tensor | None

    @property
    def orthogonal(self) -> bool:
        """Whether both factors are."""
        return self._orthogonal

    @cached_property
    def _orthogonal(self) -> bool:
        return all(_is_orthogonal(factor) for factor in (self.left, self.right) if factor is not None)

    @property
    def additions(self) -> float:
        """One row of each factor."""
        return sum(len(factor) for factor in (self.left, self.right) if factor is not None)

    def times(self, rows: Tensor) -> Tensor:
        """`rows (left ⊗ right)`."""
        return _kronecker(rows, self.left, self.right)

    def contrary(self, rows: Tensor) -> Tensor:
        """With the inverse of each factor, transposed."""
        left, right = (None if factor is None else _inverse(factor).mT for factor in (self.left, self.right))
        return _kronecker(rows, left, right)

    def rounded(self, dtype: torch.dtype) -> Factor:
        """Either factor rounded."""
        return Kronecker(*(None if side is None else side.to(dtype).double() for side in (self.left, self.right)))

    def insert(self, builder: Builder, value: Node, label: str) -> Node:
        """One `qc.kronecker`."""
        sides = (("left", self.left), ("right", self.right))
        nodes = [None if side is None else _param(builder, value, f"{label}.{name}", side) for name, side in sides]
        return builder.call("qc.kronecker", value, *nodes, name=f"{value.name}_turned")


@dataclass(frozen=True, eq=False)
class Dense:
    """Any invertible matrix [size, size]."""

    matrix: Tensor

    @property
    def orthogonal(self) -> bool:
        """Whether the matrix is."""
        return self._orthogonal

    @cached_property
    def _orthogonal(self) -> bool:
        return _is_orthogonal(self.matrix)

    @property
    def additions(self) -> float:
        """One column."""
        return len(self.matrix)

    def times(self, rows: Tensor) -> Tensor:
        """`rows matrix`."""
        return rows @ self.matrix.to(rows)

    def contrary(self, rows: Tensor) -> Tensor:
        """`rows matrix^-T`."""
        return self.times(rows) if self.orthogonal else rows @ _inverse(self.matrix).mT.to(rows)

    def rounded(self, dtype: torch.dtype) -> Factor:
        """The matrix rounded."""
        return Dense(self.matrix.to(dtype).double())

    def insert(self, builder: Builder, value: Node, label: str) -> Node:
        """A product with a constant."""
        return builder.call(
            "aten.matmul", value, _param(builder, value, f"{label}.matrix", self.matrix), name=f"{value.name}_turned"
        )


@dataclass(frozen=True, eq=False)
class Diagonal:
    """One number other than zero per coordinate."""

    scale: Tensor
    orthogonal: bool = False
    additions: float = 1.0

    def times(self, rows: Tensor) -> Tensor:
        """`rows * scale`."""
        return rows * self.scale.to(rows)

    def contrary(self, rows: Tensor) -> Tensor:
        """`rows / scale`."""
        return rows / self.scale.to(rows)

    def rounded(self, dtype: torch.dtype) -> Factor:
        """The scale rounded."""
        return Diagonal(self.scale.to(dtype).double())

    def insert(self, builder: Builder, value: Node, label: str) -> Node:
        """One product."""
        return builder.call(
            "aten.mul.Tensor", value, _param(builder, value, f"{label}.scale", self.scale), name=f"{value.name}_scaled"
        )


@dataclass(frozen=True, eq=False)
class Order:
    """A permutation: coordinate `order[j]` goes to place j."""

    order: Tensor
    orthogonal: bool = True
    additions: float = 1.0

    def times(self, rows: Tensor) -> Tensor:
        """The rows in the new order."""
        return rows[..., self.order]

    def contrary(self, rows: Tensor) -> Tensor:
        """The same: it is orthogonal."""
        return self.times(rows)

    def rounded(self, dtype: torch.dtype) -> Factor:
        """The same: it has no numbers."""
        return self

    def insert(self, builder: Builder, value: Node, label: str) -> Node:
        """One `index_select`."""
        rank = builder.program.tensor_type(value).rank
        places = builder.param(f"{label}.order", self.order.long())
        return builder.call("aten.index_select", value, rank - 1, places, name=f"{value.name}_sorted")


@dataclass(frozen=True, eq=False)
class Chain:
    """Factors one after the other; none is the identity."""

    factors: tuple[Factor, ...] = ()

    @property
    def orthogonal(self) -> bool:
        """Whether all factors are."""
        return all(factor.orthogonal for factor in self.factors)

    @property
    def additions(self) -> float:
        """All together."""
        return sum(factor.additions for factor in self.factors)

    def times(self, rows: Tensor) -> Tensor:
        """`rows T1 T2 ...`."""
        for factor in self.factors:
            rows = factor.times(rows)
        return rows

    def contrary(self, rows: Tensor) -> Tensor:
        """`rows T1^-T T2^-T ...`."""
        for factor in self.factors:
            rows = factor.contrary(rows)
        return rows

    def rounded(self, dtype: torch.dtype) -> Factor:
        """Every factor rounded."""
        return Chain(tuple(factor.rounded(dtype) for factor in self.factors))

    def insert(self, builder: Builder, value: Node, label: str) -> Node:
        """The factors' nodes in a row."""
        for index, factor in enumerate(self.factors):
            value = factor.insert(builder, value, f"{label}.{index}" if len(self.factors) > 1 else label)
        return value


@dataclass(frozen=True, eq=False)
class Placed:
    """Maps of some of the coordinates, the others as they are; only for looking ahead, nothing online is made of it.

    Args:
        index: int64 [copies, size]: coordinates of each copy.
        fibre: int64 [copies]: which map acts on it.
        factors: one map for each fibre, or one for all.
    """

    index: Tensor
    fibre: Tensor
    factors: tuple[Factor, ...]

    @property
    def orthogonal(self) -> bool:
        """Whether all maps are."""
        return all(factor.orthogonal for factor in self.factors)

    @property
    def additions(self) -> float:
        """Of the most expensive map."""
        return max(factor.additions for factor in self.factors)

    def times(self, rows: Tensor) -> Tensor:
        """The rows with every copy mapped."""
        result = rows.clone()
        for copy, factor in self._copies():
            result[..., copy] = factor.times(rows[..., copy])
        return result

    def contrary(self, rows: Tensor) -> Tensor:
        """The rows with every copy mapped by the contrary."""
        result = rows.clone()
        for copy, factor in self._copies():
            result[..., copy] = factor.contrary(rows[..., copy])
        return result

    def rounded(self, dtype: torch.dtype) -> Factor:
        """Every map rounded."""
        return Placed(self.index, self.fibre, tuple(factor.rounded(dtype) for factor in self.factors))

    def insert(self, builder: Builder, value: Node, label: str) -> Node:
        """Not made.

        Raises:
            VerifyError: always.
        """
        raise VerifyError("a transform of parts of an axis is folded, it does not run online", where=f"%{value.name}")

    def _copies(self) -> list[tuple[Tensor, Factor]]:
        fibres = self.fibre.tolist() if len(self.factors) > 1 else [0] * len(self.fibre)
        return [(copy, self.factors[int(number)]) for copy, number in zip(self.index, fibres, strict=True)]


def matrix_of(factor: Factor, size: int) -> Tensor:
    """The map as a float64 matrix [size, size]."""
    return factor.times(torch.eye(size, dtype=torch.float64))


def keeping_mean(inner: Factor, size: int) -> Factor:
    """A map of `size` coordinates that leaves the vector of ones alone and acts as `inner` on `size - 1` others.

    The first unit vector is reflected to the ones, where the map is `1 ⊕ inner`.
    """
    ones = torch.full((size,), size**-0.5, dtype=torch.float64)
    axis = torch.zeros(size, dtype=torch.float64)
    axis[0] = 1
    normal = ones - axis
    length = normal.norm()
    reflection = torch.eye(size, dtype=torch.float64)
    if length > 0:
        reflection -= 2 * torch.outer(normal, normal) / length.square()
    middle = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), matrix_of(inner, size - 1))
    return Dense(reflection @ middle @ reflection)


def joined(factors: Sequence[Factor]) -> Factor:
    """One factor in place of several."""
    return factors[0] if len(factors) == 1 else Chain(tuple(factors))


def _kronecker(rows: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    size = rows.shape[-1]
    outer = len(left) if left is not None else size // len(right) if right is not None else 1
    value = rows.reshape(-1, outer, size // outer)
    value = value if left is None else left.mT.to(rows) @ value
    return (value if right is None else value @ right.to(rows)).reshape(rows.shape)


def _inverse(matrix: Tensor) -> Tensor:
    inverse, failed = torch.linalg.inv_ex(matrix.double())
    if bool(failed) or not bool(torch.isfinite(inverse).all()):
        raise VerifyError("a transform has no inverse", where=f"matrix {list(matrix.shape)}")
    return inverse


def _is_orthogonal(matrix: Tensor) -> bool:
    wide = matrix.double()
    return bool((wide @ wide.mT - torch.eye(len(wide), dtype=wide.dtype)).abs().max() < _ORTHOGONAL)


def _param(builder: Builder, value: Node, name: str, content: Tensor) -> Node:
    return builder.param(name, content.to(builder.program.tensor_type(value).dtype))
