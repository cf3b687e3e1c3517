"""Weights as short vectors: how a matrix is cut, how vectors are clustered, and how tables are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qcompiler.errors import SpecError
from qcompiler.passes.solve.expression import Columns, Expression, Lookup, Scaled
from qcompiler.passes.solve.layers import Layer
from qcompiler.passes.solve.lowbit.blocks import damped
from qcompiler.passes.solve.lowbit.planes import halves, rounded
from qcompiler.spec.lookup import relative_distances

_SEEDING = 16
_DRIFT = 2.0
_LARGEST_TABLE = 1 << 16


@dataclass(frozen=True)
class Cut:
    """A weight in units of its rows' root mean squares, cut along its columns.

    Args:
        vectors: [rows * vectors of a row, length]; the last vector of a row ends in zeros where columns do not divide.
        scale: [rows, 1], as stored.
        moment: [columns, columns], what errors cost, slightly damped; None where nothing is known.
        columns: of the weight.
    """

    vectors: Tensor
    scale: Tensor
    moment: Tensor | None
    columns: int

    @property
    def length(self) -> int:
        """Elements of a vector."""
        return self.vectors.shape[1]

    @property
    def width(self) -> int:
        """Columns with the zeros behind them."""
        return -(-self.columns // self.length) * self.length

    @cached_property
    def matrix(self) -> Tensor:
        """The weight that was cut, [rows, columns]."""
        return self.joined(self.vectors)

    @cached_property
    def costs(self) -> Tensor:
        """What a squared error of each element of each vector costs, of mean 1; 0 behind the last column."""
        energy = torch.ones(self.columns) if self.moment is None else self.moment.diagonal()
        # A column that never saw anything still has to be something.
        energy = energy.clamp(min=1e-6 * float(energy.mean()))
        energy = torch.nn.functional.pad(energy, (0, self.width - self.columns))
        costs = (self.scale.square() * energy).reshape(-1, self.length)
        mean = costs.mean()
        return costs / mean if bool(mean > 0) else torch.ones_like(costs)

    def joined(self, vectors: Tensor) -> Tensor:
        """Vectors as a matrix [rows, columns] in the units of the weight."""
        return vectors.reshape(len(self.scale), self.width)[:, : self.columns] * self.scale

    def error(self, vectors: Tensor) -> Tensor:
        """Squared output error of vectors over the squared output; of the weight where there is no moment."""
        return _energy(self.joined(vectors) - self.matrix, self.moment) / self._energy

    def expression(self, part: Expression, scale: Tensor | None = None) -> Expression:
        """The weight from an expression of [rows, width] in units of the rows."""
        cut = part if self.width == self.columns else Columns((part,), torch.arange(self.columns))
        return Scaled(cut, halves(self.scale if scale is None else scale))

    def refitted(self, vectors: Tensor) -> Tensor:
        """Row scales of least squared output error for given vectors, [rows, 1].

        At most doubled or halved; rows of zeros get 0.
        """
        plain = self.joined(vectors) / self.scale
        moved = plain if self.moment is None else plain @ self.moment
        below = (moved * plain).sum(1, keepdim=True)
        found = (moved * self.matrix).sum(1, keepdim=True) / torch.where(below > 0, below, 1.0)
        found = torch.minimum(torch.maximum(found, self.scale / _DRIFT), self.scale * _DRIFT)
        found = torch.where(below > 0, found, self.scale)
        return torch.where(self.matrix.any(1, keepdim=True), found, 0.0)

    @cached_property
    def _energy(self) -> Tensor:
        energy = _energy(self.matrix, self.moment)
        return torch.where(energy > 0, energy, torch.ones_like(energy))


def _energy(matrix: Tensor, moment: Tensor | None) -> Tensor:
    return ((matrix if moment is None else matrix @ moment) * matrix).sum()


def cut(layer: Layer, length: int, informed: bool = True) -> Cut:
    """A layer's weight in vectors of some length.

    Args:
        layer: of one group.
        length: elements of a vector.
        informed: whether errors count as the layer's inputs say, rather than alike.
    """
    weight = layer.weight
    size = weight.square().mean(1, keepdim=True).sqrt()
    scale = rounded(torch.where(size > 0, size, torch.ones_like(size)))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    padded = torch.nn.functional.pad(weight / scale, (0, -weight.shape[1] % length))
    moment = damped(layer.inputs.second_moment[0]) if informed else None
    moment = moment if moment is not None and bool(moment.any()) else None
    return Cut(padded.reshape(-1, length), scale, moment, weight.shape[1])


def lookup(pieces: Cut, indices: Tensor, table: Expression, entries: int) -> Lookup:
    """Vectors of a table in the places of a cut weight, [rows, width]."""
    return Lookup(indices, table, (len(pieces.scale), pieces.width), entries)


def kmeans(
    vectors: Tensor, entries: int, costs: Tensor | None = None, seed: int = 0, steps: int = 25
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm.

    Args:
        vectors: float32 [count, length].
        entries: how many centers; never more than vectors.
        costs: [count, length], what a squared error of each element costs; 0 hides an element (masked k-means).
        seed: of the first centers.
        steps: at most so many.

    Returns:
        index of the nearest center of each vector int64 [count], and the centers [entries, length]. A center that
        nobody is nearest to moves to the vector that fares worst; elements that nobody asks for keep their value.
    """
    entries = min(entries, len(vectors))
    vectors = vectors if costs is None else _visible(vectors, costs)
    table = _seeded(vectors, entries, costs, seed)
    indices, distances = nearest(vectors, table, costs)
    for _ in range(steps):
        table = centers(vectors, indices, table, costs)
        empty = (torch.bincount(indices, minlength=entries) == 0).nonzero()[:, 0]
        if len(empty):
            table[empty] = vectors[distances.topk(len(empty)).indices]
        previous = indices
        indices, distances = nearest(vectors, table, costs)
        if torch.equal(indices, previous):
            break
    return indices, table


def nearest(vectors: Tensor, table: Tensor, costs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Index of the nearest entry of each vector, and its cost: int64 [count], [count]."""
    found = [part.min(1) for part in relative_distances(vectors, table, costs)]
    constant = (vectors.square() if costs is None else costs * vectors.square()).sum(1)
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]) + constant


def nearest_few(vectors: Tensor, table: Tensor, costs: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """The nearest entries of each vector, nearest first, and their costs: int64 [vectors, count], [vectors, count]."""
    found = [part.topk(count, 1, largest=False) for part in relative_distances(vectors, table, costs)]
    constant = (vectors.square() if costs is None else costs * vectors.square()).sum(1, keepdim=True)
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]) + constant


def centers(vectors: Tensor, indices: Tensor, table: Tensor, costs: Tensor | None = None) -> Tensor:
    """The best entry for the vectors that chose it; elements that none of them asks for stay."""
    costs = torch.ones_like(vectors) if costs is None else costs
    above = torch.zeros_like(table).index_add_(0, indices, costs * vectors)
    below = torch.zeros_like(table).index_add_(0, indices, costs)
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), table)


def _visible(vectors: Tensor, costs: Tensor) -> Tensor:
    """Vectors whose hidden elements are means, so that a center that begins as one of them begins sensibly."""
    mean = (costs * vectors).sum(0) / costs.sum(0).clamp(min=torch.finfo(costs.dtype).tiny)
    return torch.where(costs > 0, vectors, mean)


def check_table(entries: int, length: int) -> None:
    """Raises SpecError for a table without entries or too large to index, or vectors without elements."""
    if not 2 <= entries <= _LARGEST_TABLE or length < 1:
        raise SpecError(
            f"a table of {entries} vectors of {length}", mend="give 2 to 65536 entries and a length of at least 1"
        )


def _seeded(vectors: Tensor, entries: int, costs: Tensor | None, seed: int) -> Tensor:
    """The first centers: each drawn with a probability that grows with the distance to those before (k-means++)."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(vectors), generator=generator)[: _SEEDING * entries]
    drawn, weights = vectors[sample], None if costs is None else costs[sample]
    chosen = [0]
    least = nearest(drawn, drawn[:1], weights)[1].clamp(min=0)
    for _ in range(entries - 1):
        total = least.cumsum(0)
        place = torch.rand((), generator=generator, dtype=torch.float64) * float(total[-1])
        chosen.append(min(int(torch.searchsorted(total.double(), place)), len(drawn) - 1))
        least = torch.minimum(least, nearest(drawn, drawn[chosen[-1], None], weights)[1].clamp(min=0))
    return drawn[chosen].clone()
