"""PT2-LLM: ternary weights with a scale and a shift per row and block of columns, all by closed forms.

Formula   `w ~ a t + m`, t in {-1, 0, 1}. Fitting: a, m by least squares for given t, then t the nearest, until t stays;
          alignment: once more a, m of least squared output error, t as it is; with `feedback` t anew column by column
          and aligned again. Blocks are chosen as the columns most alike the mean of those left (reordering); the
          columns behind make up for the error of a block
Shapes    trits [rows, columns], two numbers per row and block, one order of columns
Promise   Lossy; each half step of the fitting lowers the weight error. 2.25 bits per weight with blocks of 128
Needs     calibration; of the spec only the width of the block
Source    Yan et al. 2025, "PT2-LLM: Post-Training Ternarization for Large Language Models"; Li et al. 2016,
          "Ternary Weight Networks" (the first threshold)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.decompose import decompose
from qcompiler.passes.solve.expression import Columns, Expression, Scaled, Sum
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import (
    Block,
    CompensationName,
    block_size,
    check_compensation,
    column_by_column,
    output_error,
    solve_blocks,
)
from qcompiler.passes.solve.lowbit.fits import pair_refit, solve_pairs
from qcompiler.passes.solve.lowbit.planes import per_block, rounded, trits
from qcompiler.pipeline import Context, Lossy, Promise

_THRESHOLD = 0.75
_ROUNDS = 30


@dataclass(frozen=True)
class Ternary:
    """A matrix as `scale * codes + shift` per row; scales are positive."""

    codes: Tensor
    scale: Tensor
    shift: Tensor

    def value(self) -> Tensor:
        """[rows, columns]."""
        return self.scale[:, None] * self.codes + self.shift[:, None]


def threshold_fit(weight: Tensor) -> Ternary:
    """Ternary weight networks: zero below 0.75 of the mean size around the row's mean."""
    shift = weight.mean(1)
    centered = weight - shift[:, None]
    large = centered.abs() > _THRESHOLD * centered.abs().mean(1, keepdim=True)
    codes = centered.sign() * large
    return _oriented(codes, (codes * centered).sum(1) / large.sum(1).clamp(min=1), shift)


def refits(start: Ternary, weight: Tensor) -> Iterator[Ternary]:
    """Better and better fits: scale and shift for the codes, then codes for them, until the codes stay."""
    found = start
    for _ in range(_ROUNDS):
        scale, shift = _least_squares(found.codes, weight)
        refit = _oriented(found.codes, scale, shift)
        safe = torch.where(refit.scale > 0, refit.scale, torch.ones_like(refit.scale))
        ratio = (weight - refit.shift[:, None]) / safe[:, None]
        codes = torch.where(refit.scale[:, None] > 0, ratio.round().clamp(-1, 1), torch.zeros_like(ratio))
        found = Ternary(codes, refit.scale, refit.shift)
        yield found
        if torch.equal(codes, refit.codes):
            return


def iterative_fit(weight: Tensor) -> Ternary:
    """The last of the refits."""
    found = threshold_fit(weight)
    for better in refits(found, weight):
        found = better
    return found


def align(fit: Ternary, weight: Tensor, moment: Tensor) -> Ternary:
    """Scale and shift of least squared output error for the same codes."""
    scale, shift = pair_refit(weight, fit.codes, torch.ones_like(fit.codes), moment)
    return _oriented(fit.codes, scale, shift)


def recoded(fit: Ternary, block: Block) -> Ternary:
    """New codes for the same scales and shifts, column by column."""
    scale = torch.where(fit.scale > 0, fit.scale, torch.ones_like(fit.scale))

    def codes(column: Tensor) -> Tensor:
        return ((column - fit.shift) / scale).round().clamp(-1, 1)

    value = column_by_column(block, lambda column: scale * codes(column) + fit.shift)
    return Ternary(((value - fit.shift[:, None]) / scale[:, None]).round(), scale, fit.shift)


def alike(weight: Tensor, size: int) -> Tensor:
    """Columns in blocks of those with the largest cosine to the mean of the ones that are left: int64 [columns]."""
    rest, order = torch.arange(weight.shape[1]), []
    while rest.numel():
        left = weight[:, rest]
        ranks = cosine_similarity(left, left.mean(1, keepdim=True), dim=0).argsort(descending=True, stable=True)
        order.append(rest[ranks[:size].sort().values])
        rest = rest[ranks[size:].sort().values]
    return torch.cat(order)


def _least_squares(codes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift per row; where all codes are alike the scale is 0 and the shift the mean."""
    count = torch.full_like(weight[:, 0], weight.shape[1])
    total, squares = codes.sum(1), codes.square().sum(1)
    spread = count * squares - total.square() > 0
    centered = weight - weight.mean(1, keepdim=True)
    scale, moved = solve_pairs(squares, total, count, (codes * centered).sum(1), centered.sum(1))
    return torch.where(spread, scale, 0.0), torch.where(spread, moved, 0.0) + weight.mean(1)


def _oriented(codes: Tensor, scale: Tensor, shift: Tensor) -> Ternary:
    """The same numbers with positive scales."""
    return Ternary(torch.where(scale[:, None] < 0, -codes, codes), scale.abs(), shift)


@dataclass(frozen=True)
class Pt2Llm:
    """Ternary weights.

    Args:
        align: whether scales and shifts are aligned with the inputs.
        reorder: whether blocks of columns that are alike are tried too; where they leave the smaller error they cost a
            choice of columns at run time.
        feedback: whether the columns of a block are coded once more, each making up for those before it; not in the
            paper, whose codes look at no inputs.
        compensation: `exact`, `diag` or `none`.
    """

    align: bool = True
    reorder: bool = True
    feedback: bool = True
    compensation: CompensationName = "exact"
    name: ClassVar[str] = "pt2llm"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_compensation(self.compensation)

    def fit(self, block: Block) -> Ternary:
        """One block, its numbers rounded as they are stored."""
        found = iterative_fit(block.weight)
        found = align(found, block.weight, block.moment) if self.align else found
        if self.feedback:
            found = align(recoded(found, block), block.weight, block.moment)
        return Ternary(found.codes, rounded(found.scale), rounded(found.shift))

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        moment, size = layer.inputs.second_moment[0], block_size(layer.spec.block, layer.weight.shape[1])
        found = [self.ordered(layer, size, None)]
        if self.reorder and size < layer.weight.shape[1]:
            found.append(self.ordered(layer, size, alike(layer.weight, size)))
        return min(found, key=lambda expression: output_error(expression.value() - layer.weight, moment))

    def ordered(self, layer: Layer, size: int, order: Tensor | None) -> Expression:
        """One weight, its columns in a given order."""
        solution = solve_blocks(layer.weight, layer.inputs.second_moment[0], size, self.fit, self.compensation, order)
        codes, index = trits(torch.cat([part.codes for part in solution.parts], 1)), solution.index
        scaled = Scaled(codes, per_block([part.scale for part in solution.parts], index))
        total = Sum((scaled, per_block([part.shift for part in solution.parts], index)))
        return total if order is None else Columns((total,), order.argsort())

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with ternary weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))
