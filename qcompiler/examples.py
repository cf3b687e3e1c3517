"""The examples of a unit: what it reads and what it should give, as single rows where the batch axis is free.

Batches of calibration data are split into rows and drawn anew for every step when each value has the batch as its
first axis, or does not depend on it; otherwise whole batches are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor

from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import SymbolType, TensorType
from qcompiler.training import Sample

Kind = Literal["rows", "count", "shared"]
_HELD_SHARE = 8


@dataclass(frozen=True)
class Batches:
    """Whole batches.

    Args:
        samples: one per batch; the last eighth is held out.
    """

    samples: Sequence[Sample]

    def draw(self, generator: torch.Generator) -> Sample:
        """One batch."""
        count = max(len(self.samples) - _held(len(self.samples)), 1)
        return self.samples[int(torch.randint(count, (), generator=generator))]

    def held_out(self) -> Sequence[Sample]:
        """The last batches; the only one where there is no other."""
        return self.samples[-max(_held(len(self.samples)), 1) :]


@dataclass(frozen=True)
class Rows:
    """All batches in one, drawn by rows.

    Args:
        pool: every value over all rows.
        kinds: what each live value is.
        rows: how many there are; the last eighth is held out.
        size: rows of a step.
    """

    pool: Sample
    kinds: Mapping[Node, Kind]
    rows: int
    size: int

    def draw(self, generator: torch.Generator) -> Sample:
        """Random rows, each at most once."""
        order = torch.randperm(max(self.rows - _held(self.rows), 1), generator=generator)
        return self.take(order[: self.size])

    def held_out(self) -> Sequence[Sample]:
        """The last rows, in steps."""
        first = self.rows - max(_held(self.rows), 1)
        return [self.take(part) for part in torch.arange(first, self.rows).split(self.size)]

    def take(self, rows: Tensor) -> Sample:
        """Some rows."""
        live = {node: self._part(value, self.kinds[node], rows) for node, value in self.pool.live.items()}
        targets = tuple(tuple(value[rows] for value in kind) for kind in self.pool.targets)
        importance = tuple(value[rows] if len(value) == self.rows else value for value in self.pool.importance)
        return Sample(live, targets, importance)

    def _part(self, value: object, kind: Kind, rows: Tensor) -> object:
        if kind == "count":
            return len(rows)
        return cast(Tensor, value)[rows] if kind == "rows" else value


def examples(program: Program, samples: Sequence[Sample], results: Sequence[Node], size: int) -> Rows | Batches:
    """The samples by rows where that is possible, by batches where it is not.

    Args:
        program: that the live nodes belong to.
        samples: one per batch, in one kind of importance: of every row, or of all alike.
        results: of the unit.
        size: rows of a step.
    """
    kinds = _kinds(program, samples, results)
    if kinds is None:
        return Batches(samples)
    live = {
        node: torch.cat([cast(Tensor, sample.live[node]) for sample in samples]) if kind == "rows" else value
        for (node, value), kind in zip(samples[0].live.items(), kinds.values(), strict=True)
    }
    targets = [_joined([sample.targets[kind] for sample in samples]) for kind in range(len(samples[0].targets))]
    importance = samples[0].importance
    by_row = [len(value) == len(target) for value, target in zip(importance, samples[0].targets[0], strict=False)]
    if all(by_row):
        importance = _joined([sample.importance for sample in samples])
    return Rows(Sample(live, tuple(targets), importance), kinds, len(targets[0][0]), size)


def weigh_channels(samples: Sequence[Sample], axis: int) -> list[Sample]:
    """The samples with one over the variance of each channel of the first target as importance, of mean 1."""
    importance = []
    for index in range(len(samples[0].targets[0])):
        rows = torch.cat([sample.targets[0][index].float().movedim(axis, -1).flatten(0, -2) for sample in samples])
        variance = rows.var(0, correction=0)
        weights = 1 / variance.clamp(min=float(variance.mean()) * 1e-2 + torch.finfo(torch.float32).tiny)
        target = samples[0].targets[0][index]
        shape = [1] * target.dim()
        shape[axis] = -1
        importance.append((weights / weights.mean()).reshape(shape))
    return [replace(sample, importance=tuple(importance)) for sample in samples]


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def _held(count: int) -> int:
    return max(count // _HELD_SHARE, 1) if count > 1 else 0


def _kinds(program: Program, samples: Sequence[Sample], results: Sequence[Node]) -> dict[Node, Kind] | None:
    """What each live value is, None when the rows cannot be taken apart."""
    firsts = {str(program.shape(node)[0]) if program.shape(node) else "" for node in results}
    batch = firsts.pop() if len(firsts) == 1 else ""
    if not batch.isidentifier():
        return None
    kinds: dict[Node, Kind] = {}
    for node in samples[0].live:
        kind = _kind(program, node, batch, [sample.live[node] for sample in samples])
        if kind is None:
            return None
        kinds[node] = kind
    same = {tuple(value.shape[1:] for kind in sample.targets for value in kind) for sample in samples}
    return kinds if len(same) == 1 else None


def _kind(program: Program, node: Node, batch: str, values: Sequence[object]) -> Kind | None:
    type_ = program.type(node)
    if isinstance(type_, SymbolType) and str(type_.expr) == batch:
        return "count"
    dims = type_.shape if isinstance(type_, TensorType) else (type_.expr,) if isinstance(type_, SymbolType) else ()
    if isinstance(type_, TensorType) and dims and str(dims[0]) == batch:
        tails = {cast(Tensor, value).shape[1:] for value in values}
        return "rows" if len(tails) == 1 else None
    if any(batch in str(dim) for dim in dims):
        return None
    return "shared" if all(_same(values[0], value) for value in values) else None


def _same(one: object, two: object) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and torch.equal(one, two)
    return type(one) is type(two) and one == two
