"""MVQ: of every M weights in a row the N largest stay, and the vectors of a table need to fit those alone.

Formula   masked k-means: nearest by `sum_j b_j (v_j - c_j)^2`, centers `sum b v / sum b`, b the mask; the table in 8
          bits; its entries learn on the output error of the layer through the mask; row scales of least squared error
Shapes    indices [rows * columns / length], the rank of the mask among all C(M, N) per group of M, a table [entries,
          length] in int8 and a number per row
Promise   Lossy; log2(entries) / length + ceil(log2 C(M, N)) / M bits per weight, the table and 16 / columns
Needs     calibration; nothing of the spec
Source    "MVQ: Towards Efficient DNN Compression and Acceleration with Masked Vector Quantization" 2024.
          The paper tunes on the task; this form looks at the output of each layer
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.formats import Integer
from qcompiler.formats.masks import keep_largest, rank_masks, unrank_masks
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.passes.solve.codebook.learn import tuned_table
from qcompiler.passes.solve.codebook.vectors import check_table, cut, kmeans, lookup, nearest
from qcompiler.passes.solve.decompose import decompose
from qcompiler.passes.solve.expression import Codes, Expression, Lookup, Scaled, Whole
from qcompiler.passes.solve.layers import Layer
from qcompiler.pipeline import Context, Lossy, Promise
from qcompiler.spec import Level, QuantSpec, choose_qparams, quantize

_MOST_MASKS = 1 << 16
_TABLE = QuantSpec(Integer(8, signed=True, narrow=True), (Level((-1, -1), "f32"),))


@dataclass(frozen=True)
class Masks:
    """All masks that keep so many of so many elements, in the order of their ranks.

    Args:
        kept: elements that are 1.
        size: elements of a mask.
    """

    kept: int
    size: int

    def value(self) -> Tensor:
        """0 and 1, float32 [masks, size]."""
        ranks = torch.arange(math.comb(self.size, self.kept))
        return unrank_masks(ranks, self.kept, self.size).float()

    def bits(self) -> float:
        """None: the masks follow from two numbers, and a decoder counts them off."""
        return 0.0

    def build(self, builder: Builder, name: str) -> Node:
        """A table of single bits."""
        return Whole(self.value().long(), 1).build(builder, name)


def in_eight_bits(table: Tensor) -> Codes:
    """A table in symmetric 8-bit integers with one scale."""
    scale, _ = choose_qparams(table, _TABLE)
    return Codes(_TABLE, quantize(table, scale, None, _TABLE), scale)


@dataclass(frozen=True)
class Mvq:
    """Masked vector quantization.

    Args:
        entries: of the table.
        kept: weights of every group that are not zero.
        size: of a group.
        groups: of a vector.
        steps: of gradient descent.
    """

    entries: int = 512
    kept: int = 4
    size: int = 16
    groups: int = 1
    steps: int = 150
    name: ClassVar[str] = "mvq"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_table(self.entries, self.groups)
        if not 1 <= self.kept < self.size or math.comb(self.size, self.kept) > _MOST_MASKS:
            raise SpecError(
                f"{self.kept} of {self.size} weights", mend="keep fewer than there are, with at most 65536 masks"
            )

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`."""
        pieces = cut(layer, self.size * self.groups)
        mask = keep_largest(pieces.vectors, self.kept, self.size)
        costs = pieces.costs * mask
        indices, table = kmeans(pieces.vectors, self.entries, costs, layer.seed)
        stored = in_eight_bits(tuned_table(pieces, indices, table, self.steps, mask))
        if not self.steps:
            indices, _ = nearest(pieces.vectors, stored.value(), costs)
        scale = pieces.refitted(stored.value()[indices] * mask)
        found = lookup(pieces, indices, stored, len(table))
        ranks, masks = rank_masks(mask.reshape(-1, self.size), self.kept), Masks(self.kept, self.size)
        kept = Lookup(ranks, masks, found.shape, math.comb(self.size, self.kept))
        return pieces.expression(Scaled(found, kept), scale)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with masks, indices and tables.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))
