"""VQ4ALL: one table for all weights, drawn from what their vectors look like and never changed.

Formula   table: as many vectors `w / rms(row)` of every layer as of any other, a random one of them plus h normal
          noise for every entry (a draw from a Gaussian kernel density estimate), h = (4 / ((d + 2) n))^(1 / (d + 4));
          indices: `learn_assignments` with the table fixed; the scale of each row of least squared output error
Shapes    indices [rows * columns / length] and a number per row; one table [entries, length] for the program
Promise   Lossy; log2(entries) / length bits per weight and 16 / columns; each layer bears its share of the table
Needs     calibration; nothing of the spec
Source    Deng et al. 2024, "VQ4ALL: Efficient Neural Network Representation via a Universal Codebook".
          The paper learns on the task, with one table for several networks; this form looks at the output of each layer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.ir.program import Builder, Node, Program, Stage
from qcompiler.passes.solve.codebook.soft import SoftSearch, learn_assignments
from qcompiler.passes.solve.codebook.vectors import check_table, cut, lookup
from qcompiler.passes.solve.decompose import decompose, layers_of
from qcompiler.passes.solve.expression import Expression
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.planes import halves, rounded
from qcompiler.pipeline import Context, Lossy, Promise

_POOL = 10_000
_CERTAIN = 0.999
_HARDENING = 0.01


@dataclass(frozen=True)
class Shared:
    """A part that several weights have in common.

    Args:
        part: what they share.
        users: how many weights do.
    """

    part: Expression
    users: int

    def value(self) -> Tensor:
        """That of the part."""
        return self.part.value()

    def bits(self) -> float:
        """The share of one weight."""
        return self.part.bits() / self.users

    def build(self, builder: Builder, name: str) -> Node:
        """The nodes of the part."""
        return self.part.build(builder, name)


def density_table(pools: Sequence[Tensor], entries: int, seed: int) -> Tensor:
    """Draws from a Gaussian kernel density estimate.

    Args:
        pools: vectors [count, length] of each source; sources count alike however many vectors they have.
        entries: how many draws.
        seed: of the draws.

    Returns:
        [entries, length], rounded to half precision.
    """
    generator = torch.Generator().manual_seed(seed)
    picks = [pool[torch.randint(len(pool), (_POOL,), generator=generator)] for pool in pools]
    joined = torch.cat(picks)
    count, length = sum(min(len(pool), _POOL) for pool in pools), joined.shape[1]
    bandwidth = (4 / ((length + 2) * count)) ** (1 / (length + 4))
    chosen = joined[torch.randint(len(joined), (entries,), generator=generator)]
    return rounded(chosen + bandwidth * torch.randn(entries, length, generator=generator))


@dataclass(frozen=True)
class Vq4All:
    """Vector quantization with one table for all.

    Args:
        entries: of the table.
        length: of a vector.
        candidates: entries that each vector mixes.
        steps: of gradient descent.
    """

    entries: int = 4096
    length: int = 4
    candidates: int = 4
    steps: int = 150
    name: ClassVar[str] = "vq4all"
    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    promise: ClassVar[Promise] = Lossy()

    def __post_init__(self) -> None:
        check_table(self.entries, self.length)
        if self.candidates < 1 or self.steps < 0:
            raise SpecError(f"{self.candidates} candidates, {self.steps} steps", mend="4 and 150 are usual")

    def solve(self, layer: Layer) -> Expression:
        """One weight as if there were no other; see `LayerSolver`."""
        return self.solve_with(layer, self.table([layer], layer.seed), 1)

    def table(self, layers: Sequence[Layer], seed: int) -> Tensor:
        """The table for some layers."""
        return density_table([cut(layer, self.length, informed=False).vectors for layer in layers], self.entries, seed)

    def solve_with(self, layer: Layer, table: Tensor, users: int) -> Expression:
        """One weight with a table that `users` weights share."""
        pieces = cut(layer, self.length)
        search = SoftSearch(self.candidates, self.steps, table_rate=0, certain=_CERTAIN, hardening=_HARDENING)
        found = learn_assignments(pieces, table, search)
        scale = pieces.refitted(table[found.indices])
        return pieces.expression(lookup(pieces, found.indices, Shared(halves(table), users), len(table)), scale)

    def run(self, program: Program, ctx: Context) -> Program:
        """The program with indices into one table.

        Raises:
            InputError: without calibration data; when weights or activations hold NaN or infinity.
        """
        layers = list(layers_of(program, ctx.seed))
        if not layers:
            return program
        table = self.table(layers, ctx.seed)
        users = len(layers)
        return decompose(program, ctx, lambda layer: self.solve_with(layer, table, users), self.name, ("quantized",))
