"""Groups of matrices and permutations, out of the relations of a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from qcompiler.analysis.blocks import Root, Spot, classes, mixed
from qcompiler.analysis.groups import Action, Blocker, SymmetryGroup
from qcompiler.analysis.places import (
    Placed,
    Where,
    placed_marks,
    ports,
    signature,
    site,
)
from qcompiler.analysis.relations import REORDERINGS, ROTATIONS, Norm, Relations, World
from qcompiler.ir.program import Node

_RANKS = {"keeping_mean": 0, "orthogonal": 1, "general": 2}
_PERMUTING = frozenset({Action.PERMUTATION})
_ACTIONS: dict[int, frozenset[Action]] = {
    0: frozenset({Action.ORTHOGONAL_KEEPING_MEAN, Action.PERMUTATION}),
    1: ROTATIONS - {Action.GENERAL} | _PERMUTING,
    2: ROTATIONS | _PERMUTING | {Action.DIAGONAL},
}


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Classes of labels that one matrix may mix.

    Args:
        kind: int64 [2 * labels]: class by root, -1 for none.
        sizes: labels in each class.
        rank: by class, see `_RANKS`.
        centred: by class: whether layer norms must become root-mean-square norms to reach that rank.
        contracted: by class: whether two of its values are contracted with each other.
    """

    kind: torch.Tensor
    sizes: list[int]
    rank: list[int]
    centred: list[bool]
    contracted: list[bool]


def matrix_groups(
    relations: Relations, root: Root, folded: Sequence[Norm]
) -> tuple[tuple[SymmetryGroup, ...], tuple[SymmetryGroup, ...]]:
    """Groups on which rotations act, and groups on which only permutations do.

    Args:
        relations: of the program.
        root: labels that take the same matrix.
        folded: norms whose gain can be folded, or that have none.
    """
    marks, spread = placed_marks(relations, root, World.MATRIX)
    for mark in spread:
        reason = "its constant would have to change along several axes"
        relations.restrict(mark.codes, ROTATIONS | REORDERINGS, mark.node, reason)
    sums, seen = _row_sums(relations, root)
    rotated = _blocks(relations, root, sums, seen & ~_refused(relations, root, Action.ORTHOGONAL))
    folding = [mark for mark in marks if mark.role != "multiplier"]
    found = _Finder(relations, root, rotated, folding, folded).groups("r")
    known = {number for numbers in found.values() for number in numbers}
    rest = seen & ~_refused(relations, root, Action.PERMUTATION)
    permuted = _without(_blocks(relations, root, sums, rest), rotated, known)
    loose = _Finder(relations, root, permuted, marks, ()).groups("p", permuting=True)
    return tuple(found), tuple(loose)


def _row_sums(relations: Relations, root: Root) -> tuple[torch.Tensor, torch.Tensor]:
    """By root, a number that tells in which rows it lies how often, and whether it lies in any."""
    sums, seen = torch.zeros(2 * relations.count, dtype=torch.int64), torch.zeros(2 * relations.count, dtype=torch.bool)
    if relations.rows:
        codes = root.of[torch.cat([rows.codes.reshape(-1) for rows in relations.rows])]
        widths = [width for rows in relations.rows for width in [rows.codes.shape[1]] * rows.codes.shape[0]]
        marks = mixed(0, len(widths))
        sums.index_add_(0, codes, torch.repeat_interleave(marks, torch.tensor(widths)))
        seen[codes] = True
        seen[0] = False
    return sums, seen


def _refused(relations: Relations, root: Root, action: Action) -> torch.Tensor:
    """By root, whether an action is refused."""
    found = torch.zeros(2 * relations.count, dtype=torch.bool)
    codes = [item.codes for item in relations.restrictions if action in item.actions]
    if codes:
        found[root.of[torch.cat(codes)]] = True
    return found


def _blocks(relations: Relations, root: Root, sums: torch.Tensor, used: torch.Tensor) -> _Blocks:
    kind = classes(sums, used)
    sizes = torch.bincount(kind[kind >= 0])
    rank = torch.full((sizes.shape[0] + 1,), 2)
    layered = torch.zeros(sizes.shape[0] + 1, dtype=torch.bool)
    for rows in relations.rows:
        if rows.rank != "general":
            met = kind[root.of[rows.codes]].reshape(-1)
            if rows.kind == "layer_norm":
                layered[met] = True
            else:
                rank[met] = rank[met].clamp(max=_RANKS[rows.rank])
    torn = kind[root.torn & (kind >= 0)]
    rank[torn] = rank[torn].clamp(max=1)
    centred = layered & (rank > 0)
    if bool(centred.any()):
        centred &= ~_uncentrable(relations, root, kind, sizes)
    rank = torch.where(layered, torch.where(centred, rank.clamp(max=1), 0), rank)
    contracted = torch.zeros_like(layered)
    for rows in relations.rows:
        if rows.kind == "contract":
            contracted[kind[root.of[rows.codes]].reshape(-1)] = True
    return _Blocks(kind, sizes.tolist(), rank[:-1].tolist(), centred[:-1].tolist(), contracted[:-1].tolist())


def _uncentrable(relations: Relations, root: Root, kind: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """By class: whether somebody sees the mean of its values.

    A layer norm over several copies takes off the mean of all, so that it sees how those of single copies differ.
    """
    found = torch.zeros(sizes.shape[0] + 1, dtype=torch.bool)
    known = torch.nn.functional.pad(sizes, (0, 1))
    free = torch.zeros(relations.count, dtype=torch.bool)
    for norm in relations.norms:
        if relations.program.op(norm.node) == "aten.layer_norm":
            free[norm.taken >> 1] = True
    seen = [rows.codes.reshape(-1) for rows in relations.rows if rows.kind not in ("layer_norm", "write")]
    if seen:
        codes = torch.cat(seen)
        found[kind[root.of[codes[~free[codes >> 1]]]]] = True
    for rows in relations.rows:
        if rows.kind == "layer_norm":
            met = kind[root.of[rows.codes]]
            whole = (met == met[:, :1]).all(1) & (met[:, 0] >= 0) & (known[met[:, 0]] == met.shape[1])
            found[met[~whole].reshape(-1)] = True
    return found


def _without(blocks: _Blocks, other: _Blocks, known: set[int]) -> _Blocks:
    """The blocks that are not already among the groups of others."""
    kind = blocks.kind.clone()
    reported = torch.zeros(len(other.sizes) + 1, dtype=torch.bool)
    reported[list(known)] = True
    same = (kind >= 0) & (other.kind >= 0) & reported[other.kind]
    whole = torch.bincount(kind[same], minlength=len(blocks.sizes)) == torch.tensor(blocks.sizes)
    kind[(kind >= 0) & torch.cat([whole, torch.zeros(1, dtype=torch.bool)])[kind]] = -1
    return _Blocks(kind, blocks.sizes, blocks.rank, blocks.centred, blocks.contracted)


@dataclass(eq=False)
class _Finder:
    """Turns blocks into groups: blocks that lie side by side in the same places are fibres of one group."""

    relations: Relations
    root: Root
    blocks: _Blocks
    marks: Sequence[Placed]
    norms: Sequence[Norm]

    def groups(self, prefix: str, permuting: bool = False) -> dict[SymmetryGroup, list[int]]:
        """The groups in graph order, each with its blocks."""
        where, torn = self._located()
        together: dict[tuple[object, ...], list[int]] = {}
        for number in sorted(where.sites):
            if self._acts(where.sites[number], number):
                key = (*signature(where, number, self.blocks.sizes[number]), self._rank(number, torn))
                together.setdefault(key, []).append(number)
        reasons = self._reasons(permuting)
        gains = self._gains()
        found: dict[SymmetryGroup, list[int]] = {}
        for numbers in together.values():
            rank = self._rank(numbers[0], torn)
            actions = _PERMUTING if permuting else _ACTIONS[rank]
            group = self._group(f"{prefix}{len(found)}", numbers, actions, where, reasons, gains)
            found[group] = numbers
        return found

    def _rank(self, number: int, torn: frozenset[int]) -> int:
        return min(self.blocks.rank[number], 1 if number in torn else 2)

    def _acts(self, spots: Sequence[Spot], number: int) -> bool:
        size = self.blocks.sizes[number]
        roles = {self.marks[spot.key].role for spot in spots}
        whole = all(spot.index.shape == (spot.index.shape[0], size) and spot.index.shape[0] for spot in spots)
        return size > 1 and whole and "writer" in roles and ("reader" in roles or self.blocks.contracted[number])

    def _located(self) -> tuple[Where, frozenset[int]]:
        """Where the blocks lie; blocks with a label whose dual is elsewhere among them are their own dual."""
        where = Where(self.blocks.kind, self.root, self.marks, self.relations)
        sizes = self.blocks.sizes
        torn = {
            number for number, spots in where.sites.items() for spot in spots if spot.index.shape[1] != sizes[number]
        }
        twisted = self.root.torn & (self.blocks.kind >= 0)
        torn.update(self.blocks.kind[twisted].tolist())
        if torn:
            chosen = torch.zeros(len(sizes) + 1, dtype=torch.bool)
            chosen[list(torn)] = True
            parity = self.root.parity & ~chosen[self.blocks.kind[self.root.of]]
            plain = Root(self.root.of, parity, self.root.torn)
            where = Where(self.blocks.kind, plain, self.marks, self.relations)
        return where, frozenset(torn)

    def _group(
        self,
        name: str,
        numbers: list[int],
        actions: frozenset[Action],
        where: Where,
        reasons: dict[int, dict[Blocker, None]],
        gains: dict[int, dict[Norm, None]],
    ) -> SymmetryGroup:
        flips = [where.sites[number][0].dual for number in numbers]
        rows = zip(*(where.sites[number] for number in numbers), strict=True)
        sites = [site(where, list(enumerate(row)), flips[0]) for row in rows]
        norms = [norm for number in numbers for norm in gains.get(number, ())]
        return SymmetryGroup(
            name,
            self.blocks.sizes[numbers[0]],
            len(numbers),
            actions,
            tuple(sites),
            cache(lambda: ports(where, numbers, flips, [0] * len(numbers))),
            tuple({blocker: None for number in numbers for blocker in reasons.get(number, ())}),
            _unique(norm.node for norm in norms if norm.gain),
            _unique(
                norm.node
                for norm in norms
                if self.blocks.centred[numbers[0]] and self.relations.program.op(norm.node) == "aten.layer_norm"
            ),
        )

    def _gains(self) -> dict[int, dict[Norm, None]]:
        """Norms by block."""
        found: dict[int, dict[Norm, None]] = {}
        for norm in self.norms:
            for number in self.blocks.kind[self.root.of[norm.taken]].unique().tolist():
                found.setdefault(number, {})[norm] = None
        return found

    def _reasons(self, permuting: bool) -> dict[int, dict[Blocker, None]]:
        """What is refused on each block: by operators that keep lengths only, or by all the others."""
        found: dict[int, dict[Blocker, None]] = {}
        told: set[tuple[int, str]] = set()

        def tell(codes: torch.Tensor, actions: frozenset[Action], node: Node, reason: str) -> None:
            for number in self.blocks.kind[self.root.of[codes]].unique().tolist():
                if (number, reason) not in told:
                    told.add((number, reason))
                    found.setdefault(number, {})[Blocker(actions, node.name, reason)] = None

        for item in self.relations.restrictions if permuting else ():
            if item.actions & ROTATIONS:
                tell(item.codes, item.actions & ROTATIONS, item.node, item.reason)
        for rows in self.relations.rows if not permuting else ():
            if rows.rank == "orthogonal":
                tell(rows.codes, frozenset({Action.GENERAL}), rows.node, "keeps lengths only")
            elif rows.rank == "keeping_mean":
                tell(rows.codes, frozenset({Action.GENERAL}), rows.node, "keeps lengths and means only")
        return found


def _unique(nodes: Iterable[Node]) -> tuple[Node, ...]:
    return tuple(dict.fromkeys(nodes))
