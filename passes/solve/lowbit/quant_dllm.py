"""Quant-dLLM: a weight as a sum of planes of signs, each with a scale per row and per column of a block.

Formula   per block of columns `w_ij ~ sum_k a_ki c_kj s_kij`, s in {-1, 1}, of least error weighted by L_ij^2: planes
          one after the other on what is left, then five sweeps in which each plane is fitted anew; a and c by closed
          forms in turns. L: `inputs` sqrt(E x_j^2), `salient` 2 where w_ij^2 E x_j^2 is three deviations above its mean
          and 1 elsewhere, `none` 1. The blocks of most importance get one plane more, as many of least one less
Shapes    planes [rows, columns], a [rows] per block and plane, c [columns] per plane
Promise   Lossy; the weighted error falls with every step of a fit. `planes` (1 + 16/block + 16/rows) bits per weight
Needs     calibration; of the spec only the width of the block (128 is usual)
Source    "Quant-dLLM: Post-Training Extreme Low-Bit Quantization for Diffusion Large Language Models" 2025
          (arXiv:2510.03274). Its masked calibration is a matter of the calibration data
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.decompose import decompose
from qcompiler.passes.solve.expression import Columns, Expression, Scaled, join
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import (
    Block,
    CompensationName,
    block_size,
    check_compensation,
    solve_blocks,
)
from qcompiler.passes.solve.lowbit.fits import sign
from qcompiler.passes.solve.lowbit.planes import halves, per_block, rounded, signs
from qcompiler.pipeline import Context, Lossy, Promise

ImportanceName = Literal["inputs", "salient", "none"]
_IMPORTANCES: tuple[ImportanceName, ...] = ("inputs", "salient", "none")
_SWEEPS = 5
_ALTERNATIONS = 10
_DEVIATIONS = 3.0


@dataclass(frozen=True)
class Plane:
    """`row_i column_j signs_ij`."""

    signs: Tensor
    row: Tensor
    column: Tensor

    def value(self) -> Tensor:
        """[rows, columns]."""
        return self.row[:, None] * self.column * self.signs


@dataclass(frozen=True)
class Planes:
    """A sum of planes."""

    planes: tuple[Plane, ...]

    def value(self) -> Tensor:
        """[rows, columns]."""
        return torch.stack([plane.value() for plane in self.planes]).sum(0)


def rescale(rest: Tensor, plane: Plane, weights: Tensor) -> Plane:
    """Row and column scales of least weighted error for given signs, in turns; columns of mean size 1.

    Args:
        rest: [rows, columns], what the plane shall come close to.
        plane: where to begin.
        weights: [rows, columns], what a squared error of each element costs.
    """
    target, row, column = weights * rest * plane.signs, plane.row, plane.column
    for _ in range(_ALTERNATIONS):
        row = _ratio(target @ column, weights @ column.square())
        column = _ratio(row @ target, row.square() @ weights)
    size = column.abs().mean()
    size = torch.where(size > 0, size, torch.ones_like(size))
    return Plane(plane.signs, row * size, column / size)


def fit_planes(weight: Tensor, count: int, weights: Tensor) -> Planes:
    """Planes one after the other, then each anew on what the others leave."""
    planes: list[Plane] = []
    for _ in range(count):
        rest = weight - _total(planes, weight)
        begin = Plane(sign(rest), torch.ones_like(weight[:, 0]), torch.ones_like(weight[0]))
        planes.append(rescale(rest, begin, weights))
    for _ in range(_SWEEPS if count > 1 else 1):
        for number, old in enumerate(planes):
            rest = weight - _total(planes, weight) + old.value()
            turned = sign(rest) * sign(old.row[:, None] * old.column)
            planes[number] = rescale(rest, Plane(turned, old.row, old.column), weights)
    return Planes(tuple(planes))


def planes_per_block(weight: Tensor, moment: Tensor, size: int, planes: int, share: float) -> list[int]:
    """How many planes each block gets: one more or less for the given share of most and least important blocks."""
    importance = (weight.square() * moment.diagonal()).sum(0)
    scores = torch.stack([part.mean() for part in importance.split(size)])
    ranks = scores.argsort(stable=True)
    counts, moved = torch.full((len(scores),), planes), int(share * len(scores))
    if moved and planes > 1:
        counts[ranks[:moved]] -= 1
        counts[ranks[-moved:]] += 1
    return counts.tolist()


def _total(planes: Sequence[Plane], like: Tensor) -> Tensor:
    return Planes(tuple(planes)).value() if planes else torch.zeros_like(like)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)


@dataclass(frozen=True)
class QuantDllm:
    """Sums of scaled planes of signs.

    Args:
        planes: how many on average.
        importance: what counts in the fit: `inputs`, `salient` or `none`.
        share: of the blocks that get one plane more, and of those that get one less (0.05 in the paper).
        compensation: `exact`, `diag` or `none`.
    """

    planes: int = 2
    importance: ImportanceName = "inputs"
    share: float = 0.0
    compensation: CompensationName = "exact"
    name: ClassVar[str] = "quant_dllm"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_compensation(self.compensation)
        if self.importance not in _IMPORTANCES:
            raise SpecError(f"there is no importance '{self.importance}'", mend=f"choose: {', '.join(_IMPORTANCES)}")
        if not 1 <= self.planes <= 8 or not 0 <= self.share <= 0.5:
            raise SpecError(
                f"{self.planes} planes, a share of {self.share}", mend="give 1 to 8 planes, and a share from 0 to 0.5"
            )

    def weights(self, block: Block) -> Tensor:
        """What a squared error of each element of a block costs, of mean 1."""
        energy = block.moment.diagonal()
        if self.importance == "none":
            return torch.ones_like(block.weight)
        if self.importance == "inputs":
            weights = energy.expand_as(block.weight).clamp(min=float(energy.mean()) * 1e-6)
            return weights / weights.mean() if bool(weights.any()) else torch.ones_like(weights)
        score = block.weight.square() * energy
        deviation = score.std(correction=0)
        return torch.where(score > score.mean() + _DEVIATIONS * deviation, 4.0, 1.0)

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        weight, moment = layer.weight, layer.inputs.second_moment[0]
        size = block_size(layer.spec.block, weight.shape[1])
        counts = planes_per_block(weight, moment, size, self.planes, self.share)

        def fit(block: Block) -> Planes:
            found = fit_planes(block.weight, counts[block.number], self.weights(block))
            return Planes(tuple(Plane(p.signs, rounded(p.row), rounded(p.column)) for p in found.planes))

        solution = solve_blocks(weight, moment, size, fit, self.compensation)
        blocks = list(torch.arange(weight.shape[1]).split(size))
        kinds = sorted(set(counts))
        parts = tuple(_joined([part for part in solution.parts if len(part.planes) == kind], size) for kind in kinds)
        if len(parts) == 1:
            return parts[0]
        order = [blocks[number] for kind in kinds for number, count in enumerate(counts) if count == kind]
        return Columns(parts, torch.cat(order).argsort())

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with weights as sums of planes.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))


def _joined(parts: Sequence[Planes], size: int) -> Expression:
    """Blocks with equally many planes side by side."""
    columns = sum(part.planes[0].column.numel() for part in parts)
    index = torch.arange(columns) // size
    found = []
    for number in range(len(parts[0].planes)):
        planes = [part.planes[number] for part in parts]
        plane = Scaled(
            signs(torch.cat([one.signs for one in planes], 1)),
            per_block([one.row for one in planes], index),
        )
        found.append(Scaled(plane, halves(torch.cat([one.column for one in planes])[None])))
    return join(found)
