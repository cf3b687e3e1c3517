"""Groups of scales: the null space of the linear system of exponents.

Every label has an exponent: its coordinates are multiplied by `s ** exponent`. Ties make exponents equal or opposite,
refusals make them zero, products add them up: `z = x + y`. Labels that meet the same constants and products are one
class, so that the system that is left is solved once per class, whatever its width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import lcm

import torch

from qcompiler.analysis import labels as lb
from qcompiler.analysis.blocks import Root, Spot, classes, mixed, roots
from qcompiler.analysis.groups import Action, SymmetryGroup
from qcompiler.analysis.places import Placed, Where, placed_marks, ports, site
from qcompiler.analysis.relations import SCALES, Relations, World
from qcompiler.analysis.shifts import Shifts
from qcompiler.ir.program import Node

_Pairs = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class _Left:
    """Products that are left to solve: signed variables of `z = x + y`.

    Args:
        of: int64 [3, rows]: roots.
        parity: bool [3, rows].
        product: int64 [rows]: number of the product.
    """

    of: torch.Tensor
    parity: torch.Tensor
    product: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Solved:
    """Exponents as far as single products settle them.

    Args:
        root: labels with equal exponents.
        zero: bool [2 * labels], by root: exponents that are zero.
        left: what remains.
    """

    root: Root
    zero: torch.Tensor
    left: _Left


def scale_groups(relations: Relations, ties: _Pairs) -> tuple[Root, tuple[SymmetryGroup, ...]]:
    """Groups of scales, and which labels have equal exponents.

    Args:
        relations: of the program.
        ties: of exponents.
    """
    root = roots(relations.count, ties)
    marks, spread = placed_marks(relations, root, World.SCALE)
    for mark in spread:
        relations.restrict(mark.codes, SCALES, mark.node, "its constant would have to change along several axes")
    solved = _settled(relations, ties, root)
    marks, _ = placed_marks(relations, solved.root, World.SCALE)
    return solved.root, _Finder(relations, solved, marks).groups()


def _settled(relations: Relations, ties: _Pairs, root: Root) -> _Solved:
    """Products with a factor of exponent zero become ties, until none is left."""
    zero = torch.zeros(2 * relations.count, dtype=torch.bool)
    zero[0] = True
    for item in relations.restrictions:
        if Action.DIAGONAL in item.actions:
            zero[root.of[item.codes]] = True
    parts = [torch.empty(3, 0, dtype=torch.int64), *(torch.stack([row.z, row.x, row.y]) for row in relations.products)]
    codes = torch.cat(parts, 1)
    product = torch.repeat_interleave(
        torch.arange(len(relations.products)),
        torch.tensor([row.z.numel() for row in relations.products], dtype=torch.int64),
    )
    while True:
        zero |= root.torn
        of, parity = root.of[codes], root.parity[codes]
        nought = zero[of]
        known = nought.sum(0)
        new_zero = [of[:, known == 2][~nought[:, known == 2]], *_cancelled(of, parity, known)]
        new_ties = _pairs(codes, nought, known)
        open_rows = known == 0
        if bool(open_rows.all()) and not any(part.numel() for part in new_zero):
            return _Solved(root, zero, _Left(of, parity, product))
        codes, product = codes[:, open_rows], product[open_rows]
        zero[torch.cat(new_zero)] = True
        if new_ties:
            ties = [*ties, *new_ties]
            before, root = root, roots(relations.count, ties)
            zero[root.of[zero.nonzero().reshape(-1)]] = True
            zero |= zero[before.of]


def _cancelled(of: torch.Tensor, parity: torch.Tensor, known: torch.Tensor) -> list[torch.Tensor]:
    """In products of three unknowns: what is zero because the other two are the same."""
    z, x, y = of
    sign_z, sign_x, sign_y = parity
    free = known == 0
    return [
        y[free & (z == x) & (sign_z == sign_x)],
        x[free & (z == y) & (sign_z == sign_y)],
        z[free & (x == y) & (sign_x != sign_y)],
    ]


def _pairs(codes: torch.Tensor, nought: torch.Tensor, known: torch.Tensor) -> _Pairs:
    """Ties out of products with one factor of exponent zero."""
    found: _Pairs = []
    for slot, (first, second, opposite) in enumerate(((1, 2, 1), (0, 2, 0), (0, 1, 0))):
        chosen = (known == 1) & nought[slot]
        if bool(chosen.any()):
            found.append((codes[first, chosen], codes[second, chosen] ^ opposite))
    return found


@dataclass(eq=False)
class _Finder:
    """Turns what is left into groups."""

    relations: Relations
    solved: _Solved
    marks: Sequence[Placed]

    def groups(self) -> tuple[SymmetryGroup, ...]:
        """The groups, in graph order of their first constant."""
        kind, cluster = self._classes()
        where = Where(kind, self.solved.root, self.marks, self.relations, cluster)
        sizes = torch.bincount(kind[kind >= 0]).tolist()
        shifts = Shifts(self.relations)
        found: list[tuple[int, tuple[SymmetryGroup, ...]]] = []
        for numbers, rows in self._systems(kind):
            first = min(
                (spots[0].key for spots in (where.sites.get(number) for number in numbers) if spots), default=-1
            )
            if first < 0 or any(not _even(where, number, sizes[number]) for number in numbers):
                continue
            basis = null_space(self._order(where, numbers), rows)
            made = [self._group(where, kind, exponents, sizes[numbers[0]], shifts) for exponents in basis]
            found.append((first, tuple(group for group in made if group is not None)))
        ordered = [group for _, made in sorted(found, key=lambda item: item[0]) for group in made]
        return tuple(_named(group, f"s{number}") for number, group in enumerate(ordered))

    def _classes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Class and cluster of each root; roots in clusters that hold a class twice have no class."""
        root, left = self.solved.root, self.solved.left
        count = root.of.shape[0]
        sums, used = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)
        heads = mixed(1, 2 * len(self.marks))
        codes = torch.cat([torch.empty(0, dtype=torch.int64), *(mark.codes for mark in self.marks)])
        counts = torch.tensor([mark.codes.numel() for mark in self.marks], dtype=torch.int64)
        numbers = torch.arange(len(self.marks)).repeat_interleave(counts)
        sums.index_add_(0, root.of[codes], heads[2 * numbers + root.parity[codes].long()])
        used[root.of[codes]] = True
        slots = mixed(2, 6 * len(self.relations.products))
        for slot in range(3):
            place = (left.product * 3 + slot) * 2 + left.parity[slot].long()
            sums.index_add_(0, left.of[slot], slots[place])
            used[left.of[slot]] = True
        used &= ~self.solved.zero
        cluster = lb.components(count, left.of[0].repeat(2), left.of[1:].reshape(-1))
        kind = classes(sums, used)
        twice = self._twice(kind, cluster)
        tags = mixed(3, int(kind.max()) + 2)
        whole = torch.zeros(count, dtype=torch.int64).index_add_(0, cluster, torch.where(used, tags[kind], 0))
        return classes(sums * 3 + whole[cluster], used & ~twice[cluster]), cluster

    def _twice(self, kind: torch.Tensor, cluster: torch.Tensor) -> torch.Tensor:
        """By cluster: whether two of its roots are of one class."""
        found = torch.zeros(cluster.shape[0], dtype=torch.bool)
        joined = self.solved.left.of.unique()
        held = joined[kind[joined] >= 0]
        pairs, counts = torch.unique(cluster[held] * (int(kind.max()) + 2) + kind[held], return_counts=True)
        found[pairs[counts > 1] // (int(kind.max()) + 2)] = True
        return found

    def _systems(self, kind: torch.Tensor) -> list[tuple[list[int], list[dict[int, int]]]]:
        """Classes that products tie together, with the equations between them."""
        left = self.solved.left
        equations: dict[tuple[tuple[int, int], ...], None] = {}
        table = (
            torch.cat([kind[left.of], left.parity.long()]).unique(dim=1).t().tolist() if left.product.numel() else []
        )
        for z, x, y, *signs in table:
            if min(z, x, y) < 0:
                continue
            row: dict[int, int] = {}
            for number, sign, dual in ((z, 1, signs[0]), (x, -1, signs[1]), (y, -1, signs[2])):
                row[number] = row.get(number, 0) + (-sign if dual else sign)
            equations[tuple(sorted(row.items()))] = None
        count = int(kind.max()) + 1
        first = torch.tensor([row[0][0] for row in equations for _ in row], dtype=torch.int64)
        second = torch.tensor([item for row in equations for item, _ in row], dtype=torch.int64)
        together: dict[int, tuple[list[int], list[dict[int, int]]]] = {}
        part = lb.components(count, first, second).tolist()
        for number in range(count):
            together.setdefault(part[number], ([], []))[0].append(number)
        for equation in equations:
            together[part[equation[0][0]]][1].append(dict(equation))
        return list(together.values())

    def _order(self, where: Where, numbers: Sequence[int]) -> list[int]:
        """Variables that nothing writes first, so that they follow those that are written."""
        written = {
            number: any(self.marks[spot.key].role == "writer" for spot in where.sites.get(number, []))
            for number in numbers
        }
        return sorted(numbers, key=lambda number: (written[number], number))

    def _holder(self, kind: torch.Tensor, number: int) -> Callable[[Node], bool]:
        """Whether a value holds labels of a class."""

        def holds(node: Node) -> bool:
            codes = self.relations.values.get(node)
            return codes is None or bool((kind[self.solved.root.of[lb.core(codes)]] == number).any())

        return holds

    def _group(
        self, where: Where, kind: torch.Tensor, exponents: dict[int, int], size: int, shifts: Shifts
    ) -> SymmetryGroup | None:
        numbers = [number for number, exponent in exponents.items() if exponent]
        spots = sorted(
            ((spot.key, number, spot) for number in numbers for spot in where.sites.get(number, [])), key=_key
        )
        if not spots:
            return None
        _, lead, head = spots[0]
        flip = head.dual != (exponents[lead] < 0)
        sites = tuple(site(where, [(0, spot)], flip, exponents[number]) for _, number, spot in spots)
        roles = {item.role for item in sites}
        opposed = len({item.exponent > 0 for item in sites}) > 1
        if "writer" not in roles or not ("reader" in roles or opposed):
            return None
        located = cache(lambda: ports(where, numbers, [flip] * len(numbers), [exponents[item] for item in numbers]))
        refused = shifts.refused(sites, self._holder(kind, lead)) if len(numbers) == 1 else None
        actions = {Action.DIAGONAL} | (set() if refused or len(numbers) > 1 else {Action.SHIFT})
        blockers = (refused,) if refused else ()
        return SymmetryGroup("", size, 1, frozenset(actions), sites, located, blockers)


def _key(item: tuple[int, int, Spot]) -> tuple[int, int, bool]:
    return item[0], item[1], item[2].dual


def _named(group: SymmetryGroup, name: str) -> SymmetryGroup:
    return replace(group, name=name)


def _even(where: Where, number: int, size: int) -> bool:
    return all(spot.index.shape[0] and spot.index.shape[1] == size for spot in where.sites.get(number, []))


def null_space(variables: Sequence[int], equations: Sequence[dict[int, int]]) -> list[dict[int, int]]:
    """An integer basis of the solutions of homogeneous linear equations.

    Args:
        variables: in order; the first ones are expressed by the last ones.
        equations: coefficient by variable.

    Returns:
        solutions: value by variable, one solution per free variable, in order of the free variables.
    """
    rows = [{variable: Fraction(value) for variable, value in row.items() if value} for row in equations]
    pivots: dict[int, dict[int, Fraction]] = {}
    for variable in variables:
        pivot = next((row for row in rows if row.get(variable)), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        pivot = {name: value / pivot[variable] for name, value in pivot.items()}
        rows = [_reduced(row, pivot, variable) for row in rows]
        pivots = {name: _reduced(row, pivot, variable) for name, row in pivots.items()}
        pivots[variable] = pivot
    found = []
    for free in (variable for variable in variables if variable not in pivots):
        values = {name: -row.get(free, Fraction(0)) for name, row in pivots.items()} | {free: Fraction(1)}
        factor = lcm(*(value.denominator for value in values.values()))
        found.append({name: int(value * factor) for name, value in values.items() if value})
    return found


def _reduced(row: dict[int, Fraction], pivot: dict[int, Fraction], variable: int) -> dict[int, Fraction]:
    factor = row.get(variable, Fraction(0))
    if not factor:
        return row
    names = {*row, *pivot}
    values = {name: row.get(name, Fraction(0)) - factor * pivot.get(name, Fraction(0)) for name in names}
    return {name: value for name, value in values.items() if value}
