"""BiLLM: binary weights; columns that matter get a second plane, the others two scales, for large and for small ones.

Formula   per block of columns: salience `sum_i w_ij^2 / U_jj^2`; the k first columns as `a1 s1 + a2 s2 + m`, the rest
          as `a_g s + m_g`, g = |w| >= p; k in 0 .. 49 and p among 81 quantiles of least squared error; then the columns
          behind make up for the error
Shapes    signs [rows, columns], a map of one bit per element, seven numbers per row and block
Promise   Lossy; 2.9 bits per weight with blocks of 128, everything counted
Needs     calibration; of the spec only the width of the block (128 for groups of 128, all columns without groups)
Source    Huang et al. 2024, "BiLLM: Pushing the Limit of Post-Training Quantization for LLMs" (arXiv:2402.04291). Its
          code measures errors on the salience instead of the weight, which loses a third more; here they are the
          weight's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.decompose import decompose
from qcompiler.passes.solve.expression import Columns, Expression, Scaled, Sum
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import (
    Block,
    CompensationName,
    Solution,
    block_size,
    check_compensation,
    solve_blocks,
)
from qcompiler.passes.solve.lowbit.fits import binary_fit, binary_value, sign
from qcompiler.passes.solve.lowbit.planes import Partition, per_block, rounded, signs
from qcompiler.pipeline import Context, Lossy, Promise

_MOST_SALIENT = 49
_SPLITS = 81


@dataclass(frozen=True)
class Split:
    """A matrix in binary with two kinds of elements: signs, which are large, scale and shift of large and of small."""

    signs: Tensor
    large: Tensor
    scales: tuple[Tensor, Tensor]
    shifts: tuple[Tensor, Tensor]

    def value(self) -> Tensor:
        """[rows, columns]."""
        scale = torch.where(self.large, self.scales[0][:, None], self.scales[1][:, None])
        return self.signs * scale + torch.where(self.large, self.shifts[0][:, None], self.shifts[1][:, None])


@dataclass(frozen=True)
class Residual:
    """A matrix as two scaled planes of signs and a shift."""

    signs: tuple[Tensor, Tensor]
    scales: tuple[Tensor, Tensor]
    shift: Tensor

    def value(self) -> Tensor:
        """[rows, columns]."""
        (first, second), (coarse, fine) = self.signs, self.scales
        return coarse[:, None] * first + fine[:, None] * second + self.shift[:, None]


@dataclass(frozen=True)
class BinaryBlock:
    """One block: its salient columns and the rest."""

    salient: Tensor
    residual: Residual
    split: Split

    def value(self) -> Tensor:
        """[rows, columns of the block]."""
        rows, columns = self.split.signs.shape[0], self.salient.numel()
        found = self.split.signs.new_zeros(rows, columns)
        found[:, self.salient] = self.residual.value()
        found[:, ~self.salient] = self.split.value()
        return found


def residual_fit(weight: Tensor) -> Residual:
    """Two binary fits, the second of what the first leaves."""
    everywhere = torch.ones_like(weight, dtype=torch.bool)
    coarse, shift = binary_fit(weight, everywhere)
    left = weight - binary_value(weight, coarse, shift)
    fine, moved = binary_fit(left, everywhere)
    planes = (sign(weight - shift[:, None]), sign(left - moved[:, None]))
    return Residual(planes, (rounded(coarse), rounded(fine)), rounded(shift + moved))


def split_fit(weight: Tensor, large: Tensor) -> Split:
    """A binary fit of the large elements and one of the others; empty kinds are zero."""
    (high, upper), (low, lower) = binary_fit(weight, large), binary_fit(weight, ~large)
    shift = torch.where(large, upper[:, None], lower[:, None])
    return Split(sign(weight - shift), large, (rounded(high), rounded(low)), (rounded(upper), rounded(lower)))


def best_split(weight: Tensor) -> Split:
    """The boundary between large and small elements of least squared error."""
    sizes = weight.abs()
    if sizes.numel() == 0:
        return split_fit(weight, torch.zeros_like(weight, dtype=torch.bool))
    ordered = sizes.flatten().sort().values
    places = (torch.linspace(0.1, 0.9, _SPLITS) * (len(ordered) - 1)).long()
    found = [split_fit(weight, sizes >= bound) for bound in ordered[places].unique()]
    return min(found, key=lambda split: float((split.value() - weight).square().sum()))


def salient_columns(weight: Tensor, pivots: Tensor) -> Tensor:
    """Which columns get a second plane: those of most salience, as many as leave the least error."""
    columns = weight.shape[1]
    order = (weight.square() * pivots).sum(0).argsort(descending=True, stable=True)
    best, least = torch.zeros(columns, dtype=torch.bool), torch.inf
    for count in range(min(_MOST_SALIENT, columns // 2) + 1):
        chosen = torch.zeros(columns, dtype=torch.bool)
        chosen[order[:count]] = True
        rest = weight[:, ~chosen]
        plain = binary_value(rest, *binary_fit(rest, torch.ones_like(rest, dtype=torch.bool)))
        double = residual_fit(weight[:, chosen]).value()
        error = float((rest - plain).square().sum() + (double - weight[:, chosen]).square().sum())
        if error < least:
            best, least = chosen, error
    return best


def fit_block(block: Block) -> BinaryBlock:
    """Salient columns, then the split of the rest."""
    salient = salient_columns(block.weight, block.pivots)
    return BinaryBlock(salient, residual_fit(block.weight[:, salient]), best_split(block.weight[:, ~salient]))


def expression(solution: Solution[BinaryBlock]) -> Expression:
    """All blocks at once: first the columns with two kinds of elements, then the salient ones."""
    salient = torch.cat([part.salient for part in solution.parts])
    index, order = solution.index, solution.order
    rest = _rest([part.split for part in solution.parts], index[~salient])
    if not bool(salient.any()):
        return Columns((rest,), order.argsort())
    double = _double([part.residual for part in solution.parts], index[salient])
    return Columns((rest, double), torch.cat([order[~salient], order[salient]]).argsort())


def _rest(parts: Sequence[Split], index: Tensor) -> Expression:
    def numbers(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Expression, Expression]:
        return per_block([pair[0] for pair in pairs], index), per_block([pair[1] for pair in pairs], index)

    return Partition(
        signs(torch.cat([part.signs for part in parts], 1)),
        torch.cat([part.large for part in parts], 1),
        numbers([part.scales for part in parts]),
        numbers([part.shifts for part in parts]),
    )


def _double(parts: Sequence[Residual], index: Tensor) -> Expression:
    planes = tuple(
        Scaled(
            signs(torch.cat([part.signs[plane] for part in parts], 1)),
            per_block([part.scales[plane] for part in parts], index),
        )
        for plane in (0, 1)
    )
    return Sum((*planes, per_block([part.shift for part in parts], index)))


@dataclass(frozen=True)
class BiLlm:
    """Binary weights with two planes for salient columns and two scales for the rest.

    Args:
        compensation: `exact`, `diag` (as the published code) or `none`.
    """

    compensation: CompensationName = "exact"
    name: ClassVar[str] = "billm"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_compensation(self.compensation)

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        moment = layer.inputs.second_moment[0]
        size = block_size(layer.spec.block, layer.weight.shape[1])
        return expression(solve_blocks(layer.weight, moment, size, fit_block, self.compensation))

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with binary weights.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))
