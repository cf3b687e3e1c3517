"""JLCM: rows that look alike share a table of scalars; table and indices are learned together.

Formula   rows in groups by k-means of the quantiles of `w / max |w|` and the log of their scale; per group a sorted
          table c by k-means; then on the output error of the layer c by its gradient and each index m by the surrogate
          `dw / dm = (c_{i+1} - c_{i-1}) / 2` at i = round(m), so that an index can only move to its neighbours
Shapes    codes [rows, columns], tables [groups, 2^bits] in half precision, a number per row, the group of each row
Promise   Lossy; bits + 16 / columns per weight, the tables and log2(groups) / columns
Needs     calibration; of the spec only how many bits a code has
Source    Yvinec et al. 2023, "Network Memory Footprint Compression Through Jointly Learnable Codebooks and Mappings"
          (arXiv:2309.17361), from its abstract: signature and surrogate are derived. Rows keep their places, so that no
          other layer changes, and the output looked at is that of the layer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.passes.solve.codebook.learn import descend
from qcompiler.passes.solve.codebook.vectors import Cut, cut, kmeans
from qcompiler.passes.solve.decompose import decompose
from qcompiler.passes.solve.expression import Expression, Whole
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.planes import halves, rounded
from qcompiler.pipeline import Context, Lossy, Promise

_QUANTILES = 9
_SAMPLE = 1 << 15
_TABLE_RATE = 1e-2
_INDEX_RATE = 2e-2
_MOST_BITS = 8


@dataclass(frozen=True)
class RowTables:
    """Scalars of tables, one table for each group of rows.

    Args:
        codes: int64 [rows, columns], 0 .. entries - 1.
        width: bits of a code.
        tables: [groups, entries].
        group: int64 [rows].
    """

    codes: Tensor
    width: int
    tables: Expression
    group: Tensor

    def value(self) -> Tensor:
        """`tables[group_i, codes_ij]`."""
        return self.tables.value()[self.group].gather(1, self.codes)

    def bits(self) -> float:
        """Codes, tables, and the group of each row."""
        groups = int(self.tables.value().shape[0])
        return self.codes.numel() * self.width + self.tables.bits() + self.group.numel() * (groups - 1).bit_length()

    def build(self, builder: Builder, name: str) -> Node:
        """The table of every row, and a choice in it."""
        tables = self.tables.build(builder, f"{name}.tables")
        rows = builder.call("aten.index_select", tables, 0, builder.param(f"{name}.group", self.group))
        return builder.call("aten.gather", rows, 1, Whole(self.codes, self.width).indices(builder, name))


def row_groups(weight: Tensor, groups: int, seed: int) -> Tensor:
    """Group of each row by what its weights look like, int64 [rows]."""
    largest = weight.abs().amax(1, keepdim=True)
    scaled = weight / torch.where(largest > 0, largest, 1.0)
    marks = torch.quantile(scaled, torch.linspace(0, 1, _QUANTILES), dim=1).T
    size = largest.clamp(min=torch.finfo(torch.float32).tiny).log()
    spread = size.std(correction=0)
    size = (size - size.mean()) / torch.where(spread > 0, spread, 1.0)
    return kmeans(torch.cat([marks, size], 1), groups, seed=seed)[0]


def first_tables(pieces: Cut, group: Tensor, entries: int, seed: int) -> Tensor:
    """Sorted k-means tables of the groups, [groups, entries]."""
    rows = pieces.vectors.reshape(len(group), -1)
    tables = torch.linspace(-1, 1, entries).repeat(int(group.max()) + 1, 1)
    generator = torch.Generator().manual_seed(seed)
    for number in group.unique().tolist():
        values, costs = (part.reshape(len(group), -1)[group == number].reshape(-1, 1) for part in (rows, pieces.costs))
        sample = torch.randperm(len(values), generator=generator)[:_SAMPLE]
        found = kmeans(values[sample], entries, costs[sample], seed)[1][:, 0].sort().values
        tables[number, : len(found)], tables[number, len(found) :] = found, found[-1]
    return tables


class Joint:
    """Tables and indices that learn together.

    Args:
        pieces: the weight, in vectors of one element.
        group: of each row.
        tables: sorted, [groups, entries].
    """

    def __init__(self, pieces: Cut, group: Tensor, tables: Tensor) -> None:
        self.pieces, self.group = pieces, group
        self.tables = tables.clone().requires_grad_()
        rows = pieces.vectors.reshape(len(group), -1)
        bounds = ((tables[:, 1:] + tables[:, :-1]) / 2)[group].contiguous()
        self.places = torch.searchsorted(bounds, rows.contiguous()).float().requires_grad_()

    def codes(self) -> Tensor:
        """The indices as they are, int64 [rows, columns]."""
        return self.places.detach().round().clamp(0, self.tables.shape[1] - 1).long()

    def loss(self) -> Tensor:
        """Output error; indices have the slope of the table around them."""
        codes, last = self.codes(), self.tables.shape[1] - 1
        rows = self.tables[self.group]
        plain = rows.detach()
        above, below = (codes + 1).clamp(max=last), (codes - 1).clamp(min=0)
        slope = (plain.gather(1, above) - plain.gather(1, below)) / (above - below)
        value = rows.gather(1, codes) + (self.places - self.places.detach()) * slope
        return self.pieces.error(value.reshape(-1, 1))

    def after(self, step: int) -> None:
        """Keeps indices inside the tables, and tables in order."""
        self.places.clamp_(0, self.tables.shape[1] - 1)
        ordered, order = self.tables.sort(dim=1)
        if torch.equal(ordered, self.tables):
            return
        codes = self.codes()
        moved = order.argsort(dim=1)[self.group].gather(1, codes)
        self.places += (moved - codes).float()
        self.tables.copy_(ordered)


@dataclass(frozen=True)
class Jlcm:
    """Tables of scalars for groups of rows.

    Args:
        groups: of rows.
        steps: of gradient descent; 0 keeps k-means.
    """

    groups: int = 4
    steps: int = 300
    name: ClassVar[str] = "jlcm"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        if self.groups < 1 or self.steps < 0:
            raise SpecError(f"{self.groups} groups, {self.steps} steps", mend="4 and 300 are usual")

    def solve(self, layer: Layer) -> Expression:
        """One weight; see `LayerSolver`.

        Raises:
            SpecError: when a code of the spec has more than 8 bits.
        """
        width = layer.spec.bits
        if width > _MOST_BITS:
            raise SpecError(f"a table for codes of {width} bits", where=str(layer.spec), mend="use at most 8 bits")
        pieces = cut(layer, 1)
        group = row_groups(layer.weight, self.groups, layer.seed)
        joint = Joint(pieces, group, first_tables(pieces, group, 1 << width, layer.seed))
        descend(joint.loss, [(joint.tables, _TABLE_RATE), (joint.places, _INDEX_RATE)], self.steps, joint.after)
        tables, codes = rounded(joint.tables.detach()), joint.codes()
        scale = pieces.refitted(tables[group].gather(1, codes).reshape(-1, 1))
        return pieces.expression(RowTables(codes, width, halves(tables), group), scale)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with codes and tables.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
            SpecError: when a code of the spec has more than 8 bits.
        """
        return decompose(program, ctx, self.solve, self.name, ("quantized",))
