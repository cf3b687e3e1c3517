"""Vector quantization: each run of weights in a row becomes the index of a vector in a table.

Formula   k-means of `w / rms(row)` in vectors of some length, an error of column j counting E x_j^2; then each vector
          anew the nearest entry, column by column, to what makes up for the errors before it (`compensate`); with
          `steps` the table learns on the output error; the scale of each row of least squared output error
Shapes    indices [rows * columns / length], a table [entries, length] and a number per row in half precision
Promise   Lossy; log2(entries) / length bits per weight, the table and 16 / columns
Needs     calibration (none without `weighted` and `compensate`); nothing of the spec
Source    Stock et al. 2020, "And the Bit Goes Down" (weighted k-means); van Baalen et al. 2024, "The
          Blessing of Dimensionality for LLM Quantization" (compensation)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Program, Stage
from qcompiler.passes.solve.codebook.learn import tuned_table
from qcompiler.passes.solve.codebook.vectors import Cut, check_table, cut, kmeans, lookup, nearest
from qcompiler.passes.solve.decompose import decompose, decompose_alone
from qcompiler.passes.solve.expression import Expression
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import Block, solve_blocks
from qcompiler.passes.solve.lowbit.planes import halves, rounded
from qcompiler.pipeline import Context, Lossy, Promise


@dataclass(frozen=True)
class Chosen:
    """Entries for one vector of every row."""

    indices: Tensor
    reals: Tensor

    def value(self) -> Tensor:
        """[rows, columns of the vector]."""
        return self.reals


def compensated(pieces: Cut, table: Tensor, moment: Tensor) -> Tensor:
    """Indices, one vector of each row after the other, each the nearest to what makes up for those before."""

    def fit(block: Block) -> Chosen:
        wanted = block.weight / pieces.scale
        width = wanted.shape[1]
        costs = block.pivots[None].expand_as(wanted)
        indices, _ = nearest(wanted, table[:, :width], costs)
        return Chosen(indices, table[indices, :width] * pieces.scale)

    solution = solve_blocks(pieces.matrix, moment, pieces.length, fit)
    return torch.stack([part.indices for part in solution.parts], 1).flatten()


@dataclass(frozen=True)
class KMeansVq:
    """Vector quantization by k-means.

    Args:
        entries: of the table.
        length: of a vector.
        weighted: whether errors count as the inputs say.
        compensate: whether vectors are chosen one after the other to make up for errors.
        steps: of gradient descent by which the table learns at the end.
    """

    entries: int = 256
    length: int = 4
    weighted: bool = True
    compensate: bool = True
    steps: int = 0
    name: ClassVar[str] = "kmeans_vq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_table(self.entries, self.length)
        if self.steps < 0:
            raise SpecError(f"{self.steps} steps", mend="0 keeps k-means, 150 is plenty")

    @property
    def informed(self) -> bool:
        """Whether it looks at data."""
        return self.weighted or self.compensate

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        pieces = cut(layer, self.length, self.informed)
        costs = pieces.costs if self.weighted else None
        indices, table = kmeans(pieces.vectors, self.entries, costs, layer.seed)
        table = rounded(table)
        if self.compensate:
            indices = compensated(pieces, table, layer.inputs.second_moment[0])
        else:
            indices, _ = nearest(pieces.vectors, table, costs)
        if self.steps:
            table = rounded(tuned_table(pieces, indices, table, self.steps))
        scale = pieces.refitted(table[indices])
        return pieces.expression(lookup(pieces, indices, halves(table), len(table)), scale)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with indices and tables.

        Raises:
            InputError: without calibration data where it is needed; when weights or activations hold NaN or infinity.
        """
        if not self.informed:
            return decompose_alone(program, ctx, self.solve, self.name)
        return decompose(program, ctx, self.solve, self.name, ("quantized",))
