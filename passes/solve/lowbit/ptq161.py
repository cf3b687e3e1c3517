"""PTQ1.61: a fifth of the columns in 4 bits, chosen by their inputs, the rest binary with a scale per row and column.

Formula   salient: the columns of largest `max |x_j|`, per row `uint4` with zero point; the rest `(a_i s_ij + m_i) r_j`,
          s = sign(w - mean). a, m and r minimise the mean of `|W^ x - W x|^2` and `|W^ x - W x~|^2` (x~ of the float
          stream), a and m in closed form for given r, r for given a and m, in turns
Shapes    one mask over columns; codes [rows, salient], signs [rows, rest]; two numbers per row, one per column
Promise   Lossy; 1.61 to 1.62 bits per weight of a 4096 x 4096 matrix, everything counted
Needs     calibration; nothing of the spec, whose groups would cost more than the method's bits
Source    Zhao et al. 2025, "PTQ1.61: Push the Real Limit of Extremely Low-Bit Post-Training Quantization Methods for
          Large Language Models". The paper trains the scales by gradients on a whole block and adds
          cosine terms; for one layer the squared terms have closed forms, and these are used. Its preprocessing by
          low-rank training needs a corpus and is not part of this
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats import Integer
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.decompose import decompose, nearest_codes
from qcompiler.passes.solve.expression import Columns, Expression, Scaled, Sum
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import damped
from qcompiler.passes.solve.lowbit.fits import sign, solve_pairs
from qcompiler.passes.solve.lowbit.planes import halves, signs
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import Level, QuantSpec

_SALIENT = QuantSpec(Integer(4, signed=False), (Level((1, -1), "f16", "int"),))
_DAMPING = 0.01


@dataclass(frozen=True)
class Scales:
    """`(row * s + shift) * column`: [rows], [rows], [columns]."""

    row: Tensor
    shift: Tensor
    column: Tensor

    def value(self, plane: Tensor) -> Tensor:
        """[rows, columns] for a plane of signs."""
        return (self.row[:, None] * plane + self.shift[:, None]) * self.column


def salient_columns(layer: Layer, share: float) -> Tensor:
    """Bool [columns]: the share of columns with the largest inputs."""
    largest = torch.zeros(layer.weight.shape[1])
    for rows in layer.inputs.rows():
        largest = torch.maximum(largest, rows[0].abs().amax(0))
    mask = torch.zeros(len(largest), dtype=torch.bool)
    mask[largest.argsort(descending=True, stable=True)[: int(share * len(largest))]] = True
    return mask


def initial_scales(weight: Tensor) -> tuple[Tensor, Scales]:
    """Signs around the mean of each row, and the mean size as scale."""
    shift = weight.mean(1)
    return sign(weight - shift[:, None]), Scales(weight.abs().mean(1), shift, torch.ones(weight.shape[1]))


def refine(plane: Tensor, scales: Scales, moment: Tensor, target: Tensor, sweeps: int) -> Scales:
    """Scales of least squared output error for given signs.

    Args:
        plane: 1 or -1 [rows, columns].
        scales: where to begin.
        moment: [columns, columns] of what the plane multiplies.
        target: [rows, columns]: `sum y x^T` of the outputs y that are wanted.
        sweeps: rounds of rows, then columns.
    """
    for _ in range(sweeps):
        scales = _refine_rows(plane, scales, moment, target)
        scales = _refine_columns(plane, scales, moment, target)
    return _refine_rows(plane, scales, moment, target) if sweeps else scales


def _refine_rows(plane: Tensor, scales: Scales, moment: Tensor, target: Tensor) -> Scales:
    first, second = plane * scales.column, scales.column.expand_as(plane)
    moved, constant = first @ moment, scales.column @ moment
    row, shift = solve_pairs(
        (moved * first).sum(1),
        (moved * second).sum(1),
        (constant @ scales.column).expand(len(plane)),
        (target * first).sum(1),
        (target * second).sum(1),
    )
    return Scales(row, shift, scales.column)


def _refine_columns(plane: Tensor, scales: Scales, moment: Tensor, target: Tensor) -> Scales:
    base = scales.row[:, None] * plane + scales.shift[:, None]
    normal = ((base.T @ base) * moment).double()
    wanted = (base * target).sum(0).double() - normal.sum(1)
    damping = _DAMPING * normal.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    moved = torch.linalg.solve(normal + damping * torch.eye(len(normal), dtype=normal.dtype), wanted)
    return Scales(scales.row, scales.shift, 1.0 + moved.float())


@dataclass(frozen=True)
class Ptq161:
    """Four bits for columns with large inputs, scaled signs for the rest.

    Args:
        share: of the columns that get 4 bits.
        sweeps: rounds of the search for scales; 0 keeps the initial ones.
    """

    share: float = 0.2
    sweeps: int = 3
    name: ClassVar[str] = "ptq161"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise SpecError(
                f"a share of {self.share} of the columns", mend="give a number from 0 to below 1; 0.2 is usual"
            )

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        return assemble(layer, salient_columns(layer, self.share), self.sweeps)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with weights of 1.61 bits.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("float", "quantized"))


def assemble(layer: Layer, salient: Tensor, sweeps: int) -> Expression:
    """The weight with 4 bits in the salient columns and refined signs in the others."""
    weight, moment = layer.weight, damped(layer.inputs.second_moment[0])
    rest = weight[:, ~salient]
    slab = Layer(layer.name, weight[:, salient], 1, _SALIENT, layer.inputs)
    coarse = nearest_codes(slab) if bool(salient.any()) else None
    plane, scales = initial_scales(rest)
    if sweeps:
        shift = layer.inputs.cross_moment[0] - layer.inputs.second_moment[0]
        target = (weight @ (moment + 0.5 * shift))[:, ~salient]
        if coarse is not None:
            target = target - coarse.value() @ moment[salient][:, ~salient]
        scales = refine(plane, scales, moment[~salient][:, ~salient], target, sweeps)
    scaled = Sum((Scaled(signs(plane), halves(scales.row[:, None])), halves(scales.shift[:, None])))
    binary = Scaled(scaled, halves(scales.column[None]))
    if coarse is None:
        return binary
    order = torch.cat([salient.nonzero()[:, 0], (~salient).nonzero()[:, 0]])
    return Columns((coarse, binary), order.argsort())
