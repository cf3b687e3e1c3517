"""The constants of a program under transforms that are still being learned: differentiable, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcompiler.analysis.groups import Place, Site, gathered, scattered
from qcompiler.ir.program import Node
from qcompiler.passes.transform.evaluate import rounded
from qcompiler.spec import QuantSpec

_VECTORS = 2


@dataclass(frozen=True, eq=False)
class Edit:
    """What one learned basis does to a constant.

    Args:
        basis: its number.
        change: the constant after the edit, from the constant and the basis as `Basis.soft` gives it.
    """

    basis: int
    change: Callable[[Tensor, Tensor], Tensor]


@dataclass(eq=False)
class Constant:
    """A parameter that changes while transforms are learned.

    Args:
        value: float32, before any transform.
        dtype: of the parameter.
        spec: of the numbers it will be rounded to; None when it stays float.
        edits: in order.
    """

    value: Tensor
    dtype: torch.dtype = torch.float32
    spec: QuantSpec | None = None
    edits: list[Edit] = field(default_factory=list)

    def under(self, bases: Mapping[int, Tensor]) -> Tensor:
        """The constant as the quantized program would read it; `bases` as `Basis.soft` gives them."""
        value = self.value
        for edit in self.edits:
            value = edit.change(value, bases[edit.basis])
        return rounded(value, self.spec).to(self.dtype)


def constants_under(constants: Mapping[Node, Constant], bases: Mapping[int, Tensor]) -> dict[Node, Tensor]:
    """All of them."""
    return {node: constant.under(bases) for node, constant in constants.items()}


def transformed(value: Tensor, basis: Tensor, site: Site) -> Tensor:
    """A constant as `surgery` would leave it at a site.

    Shapes: basis [2, fibres, n, n] (T over its inverse transposed), or scales [fibres, n] -> as the constant.
    """
    if site.role == "multiplier":
        return value
    inverse = (site.role == "reader") != site.dual
    if basis.dim() == _VECTORS:
        return scaled(value, site.place, basis ** (-site.exponent if inverse else site.exponent))
    return multiplied(value, site.place, basis[int(inverse)])


def multiplied(constant: Tensor, place: Place, matrices: Tensor) -> Tensor:
    """`constant * T` on the coordinates of a place, each copy with the matrix of its fibre.

    Shapes: matrices [fibres, n, n] -> as the constant.
    """

    def turned(rows: Tensor) -> Tensor:
        return torch.einsum("...kn,knm->...km", rows, matrices[place.fibre])

    return _changed(constant, place, turned)


def scaled(constant: Tensor, place: Place, vectors: Tensor) -> Tensor:
    """`constant * s` on the coordinates of a place, each copy with the vector of its fibre.

    Shapes: vectors [fibres, n] -> as the constant.
    """
    return _changed(constant, place, lambda rows: rows * vectors[place.fibre])


def shifted(constant: Tensor, place: Place, vectors: Tensor) -> Tensor:
    """`constant - t` on the coordinates of a place.

    Shapes: vectors [fibres, n] -> as the constant.
    """
    return _changed(constant, place, lambda rows: rows - vectors[place.fibre])


def _changed(constant: Tensor, place: Place, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A constant with other numbers at a place; `change` gets them as [..., copies, n]."""
    last = (constant if place.groups == 1 else gathered(constant, place.groups)).movedim(place.axis, -1)
    rows = change(last[..., place.index])
    result = last.index_copy(-1, place.index.flatten(), rows.flatten(-2)).movedim(-1, place.axis)
    return result if place.groups == 1 else scattered(result, place.groups)
