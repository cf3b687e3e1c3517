"""DB-LLM: two bits as two planes of zeros and ones, each with a scale of its own (flexible dual binarization).

Formula   `w ~ a1 b1 + a2 b2`, b in {0, 1}, begun at a1 = 2 s, a2 = -s, s = max |w| / 2 (or mirrored, whichever fits
          better): b the nearest of the four sums, then a1, a2 of least squares for given b, in turns; with `align`
          once more of least squared output error, with `feedback` after b was found anew column by column. The columns
          behind make up for the error of a group
Shapes    two planes [rows, columns], two numbers per row and group
Promise   Lossy; 2.5 bits per weight with groups of 64; more than half of the plane bits are zero
Needs     calibration; of the spec only the width of the group (64 is usual)
Source    Chen et al. 2024, "DB-LLM: Accurate Dual-Binarization for Efficient LLMs" (arXiv:2402.11960). The paper trains
          the scales on the whole model by distillation; here closed forms find them, layer by layer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.decompose import decompose
from qcompiler.passes.solve.expression import Expression, Scaled, Sum
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import (
    Block,
    CompensationName,
    block_size,
    check_compensation,
    column_by_column,
    solve_blocks,
)
from qcompiler.passes.solve.lowbit.fits import pair_refit
from qcompiler.passes.solve.lowbit.planes import ones_and_zeros, per_block, rounded
from qcompiler.pipeline import Context, Lossy, Promise

_ROUNDS = 15


@dataclass(frozen=True)
class Dual:
    """A matrix as `first * planes[0] + second * planes[1]` per row."""

    planes: tuple[Tensor, Tensor]
    first: Tensor
    second: Tensor

    def value(self) -> Tensor:
        """[rows, columns]."""
        return self.first[:, None] * self.planes[0] + self.second[:, None] * self.planes[1]


def assign(weight: Tensor, first: Tensor, second: Tensor) -> Dual:
    """The nearest of the four sums for every element."""
    levels = torch.stack([torch.zeros_like(first), first, second, first + second], 1)
    code = (weight[:, :, None] - levels[:, None]).abs().argmin(2)
    return Dual(((code % 2).float(), (code // 2).float()), first, second)


def initial_fit(weight: Tensor, mirrored: bool = False) -> Dual:
    """The four levels -s, 0, s, 2 s of plain two-bit integers, or -2 s, -s, 0, s."""
    step = weight.abs().amax(1) / 2 * (-1 if mirrored else 1)
    return assign(weight, 2 * step, -step)


def dual_fit(weight: Tensor) -> Dual:
    """Levels and planes in turns, from the plain and from the mirrored beginning; the better of both per row."""
    found = []
    for mirrored in (False, True):
        fit = initial_fit(weight, mirrored)
        for _ in range(_ROUNDS):
            fit = assign(weight, *pair_refit(weight, *fit.planes))
        found.append(fit)
    plain, other = found
    better = (other.value() - weight).square().sum(1) < (plain.value() - weight).square().sum(1)
    return Dual(
        (_picked(better, other, plain, 0), _picked(better, other, plain, 1)),
        torch.where(better, other.first, plain.first),
        torch.where(better, other.second, plain.second),
    )


def recoded(fit: Dual, block: Block) -> Dual:
    """New planes for the same scales, column by column."""

    def nearest(column: Tensor) -> Tensor:
        return assign(column[:, None], fit.first, fit.second).value()[:, 0]

    return assign(column_by_column(block, nearest), fit.first, fit.second)


def _picked(better: Tensor, other: Dual, plain: Dual, which: int) -> Tensor:
    return torch.where(better[:, None], other.planes[which], plain.planes[which])


@dataclass(frozen=True)
class DbLlm:
    """Two planes of zeros and ones.

    Args:
        align: whether scales are aligned with the inputs.
        feedback: whether the columns of a group are coded once more, each making up for those before it; not in the
            paper.
        compensation: `exact`, `diag` or `none`.
    """

    align: bool = True
    feedback: bool = True
    compensation: CompensationName = "exact"
    name: ClassVar[str] = "dbllm"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_compensation(self.compensation)

    def fit(self, block: Block) -> Dual:
        """One group, its numbers rounded as they are stored."""
        found = dual_fit(block.weight)
        first, second = found.first, found.second
        if self.align:
            first, second = pair_refit(block.weight, *found.planes, block.moment)
        if self.feedback:
            found = recoded(Dual(found.planes, first, second), block)
            first, second = pair_refit(block.weight, *found.planes, block.moment)
        return Dual(found.planes, rounded(first), rounded(second))

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        size = block_size(layer.spec.block, layer.weight.shape[1])
        solution = solve_blocks(layer.weight, layer.inputs.second_moment[0], size, self.fit, self.compensation)
        index = solution.index
        planes = [ones_and_zeros(torch.cat([part.planes[which] for part in solution.parts], 1)) for which in (0, 1)]
        scales = [
            per_block([part.first for part in solution.parts], index),
            per_block([part.second for part in solution.parts], index),
        ]
        return Sum((Scaled(planes[0], scales[0]), Scaled(planes[1], scales[1])))

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with weights of two planes.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))
