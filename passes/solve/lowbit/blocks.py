"""Weights solved a block of columns at a time; what a block gets wrong the columns behind it make up for.

Formula   H + damping = F^T diag(pivots) F; block S is fitted at `W_S + D F_S^T F_SS^-T`, D the errors of all columns
          before it: their best values given what stands. `diag` hands on `(latent - value) F_SS^-T` as the error, which
          is what codes do that divide it by the diagonal of the Cholesky factor alone
Shapes    weight [rows, columns], moment [columns, columns]
Source    Frantar et al. 2022, "GPTQ", generalised from one column to a block; Huang et al. 2024, "BiLLM" (diag)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.passes.solve.column import column_sequential_solve
from qcompiler.passes.solve.curvature import factorise

CompensationName = Literal["exact", "diag", "none"]
DAMPING = 0.01
COMPENSATIONS: tuple[CompensationName, ...] = ("exact", "diag", "none")


class Fitted(Protocol):
    """Whatever a fit finds of a block; it knows its reals."""

    def value(self) -> Tensor:
        """[rows, columns of the block]."""
        ...


Part = TypeVar("Part", bound=Fitted)


@dataclass(frozen=True)
class Block:
    """Columns to be solved together.

    Args:
        weight: [rows, columns of the block], their best values given the blocks before.
        moment: [columns, columns] of the block's inputs, damped.
        pivots: [columns]: what a squared error of each column costs once all later columns have made up for it.
        number: of the block, from 0.
    """

    weight: Tensor
    moment: Tensor
    pivots: Tensor
    number: int = 0


@dataclass(frozen=True)
class Solution(Generic[Part]):
    """All blocks of a weight.

    Args:
        parts: in the order of solving.
        index: int64 [columns]: number of the block of each column of the joined parts.
        order: int64 [columns]: column of the weight at each place of the joined parts.
    """

    parts: Sequence[Part]
    index: Tensor
    order: Tensor


def solve_blocks(
    weight: Tensor,
    moment: Tensor,
    size: int,
    fit: Callable[[Block], Part],
    compensation: CompensationName = "exact",
    order: Tensor | None = None,
) -> Solution[Part]:
    """Solves blocks one after the other.

    Args:
        weight: float32 [rows, columns].
        moment: float32 [columns, columns], second moment of the inputs.
        size: columns of a block; the last one may be narrower.
        fit: finds the numbers of one block.
        compensation: see `CompensationName`.
        order: int64 [columns], in which they are solved; as they lie when None.

    Returns:
        the parts; columns whose inputs are nothing but zeros are solved as zeros.
    """
    columns = weight.shape[1]
    order = torch.arange(columns) if order is None else order
    moment = moment[order][:, order]
    weight = weight[:, order].masked_fill(moment.diagonal() <= 0, 0.0)
    curvature = factorise(moment[None], DAMPING)
    feedback, pivots = curvature.feedback[0], curvature.pivots[0]
    errors, parts = torch.zeros_like(weight), []
    for start in range(0, columns, size):
        here = slice(start, start + size)
        inside, moved = feedback[here, here], torch.zeros_like(weight[:, here])
        if compensation != "none":
            moved = _through(errors[:, :start] @ feedback[here, :start].mT, inside)
        latent = weight[:, here] + moved
        part = fit(Block(latent, damped(moment[here, here]), pivots[here], start // size))
        left = latent - part.value()
        errors[:, here] = (_through(left, inside) if compensation == "diag" else left) - moved
        parts.append(part)
    return Solution(parts, torch.arange(columns) // size, order)


class _Elementwise:
    """A rounder whose grid is known beforehand; see `column.Rounder`."""

    def __init__(self, nearest: Callable[[Tensor], Tensor]) -> None:
        self.nearest = nearest

    @property
    def width(self) -> int:
        """No groups are announced."""
        return 0

    def begin(self, start: int, latent: Tensor) -> None:
        """Never called."""

    def round(self, column: int, latent: Tensor) -> Tensor:
        """[1, rows]."""
        return self.nearest(latent[0])[None]


def column_by_column(block: Block, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """A block on a known grid, its columns one after the other, each making up for those before it.

    Args:
        block: the columns.
        nearest: grid values of one column [rows].

    Returns:
        the reals, [rows, columns].
    """
    curvature = factorise(block.moment[None], 0.0)
    return column_sequential_solve(block.weight[None], curvature, _Elementwise(nearest)).value[0]


def _through(errors: Tensor, inside: Tensor) -> Tensor:
    """`errors inside^-T` for a unit lower triangle."""
    return torch.linalg.solve_triangular(inside.mT, errors, upper=True, left=False, unitriangular=True)


def output_error(error: Tensor, moment: Tensor) -> float:
    """Squared error of the outputs that an error [rows, columns] of the weight makes."""
    return float(((error @ moment) * error).double().sum())


def damped(moment: Tensor) -> Tensor:
    """A second moment with a hundredth of its mean diagonal added to it, so that few samples do not decide alone."""
    return moment + DAMPING * moment.diagonal().mean() * torch.eye(len(moment))


def check_compensation(name: str) -> None:
    """Raises SpecError for an unknown way to compensate."""
    if name not in COMPENSATIONS:
        raise SpecError(f"there is no compensation '{name}'", mend=f"choose one of {', '.join(COMPENSATIONS)}")


def block_size(block: tuple[int, ...], columns: int) -> int:
    """Columns of a block that a spec of rank 2 asks for."""
    extent = block[1]
    return columns if extent == -1 else min(extent, columns)
