"""Sizes that every call of a model chooses, in the place of numbers: polynomials that print as C.

An `Extent` is no `int`: whatever needs the number itself, such as `range` or numpy, fails at that very place and the
operator is refused, so that no number of one size slips into code for all. Two are equal when they are the same
polynomial; not being equal says nothing. An order is told only where it holds for all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Literal, NoReturn, SupportsIndex, cast

import sympy
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Max, Min, Mod, PythonMod

from qcompiler.errors import UnsupportedError
from qcompiler.ir.types import Dim

Notation = Literal["c", "python"]
PREFIX = "size_"
"""In front of the name of a free size in C, which no other variable there has."""


class OnlyARunTellsError(UnsupportedError):
    """A number is asked for that only a call of the model tells; whoever writes the operator says where."""

    def __init__(self, what: str) -> None:
        """Takes what is asked for."""
        super().__init__(
            f"only a call of the model tells {what}", step="emit", mend="name fewer sizes in the setting `sizes`"
        )


@dataclass(frozen=True)
class Free:
    """A size that a call chooses.

    Args:
        name: as C writes it.
        most: the largest that memory is planned for.
        least: the smallest.
    """

    name: str
    most: int
    least: int = 1

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest."""
        return self.least, self.most

    def text(self, notation: Notation) -> str:
        """As an expression."""
        return f"{PREFIX}{self.name}" if notation == "c" else self.name

    def at(self, values: Mapping[str, int]) -> int:
        """Its value in a call."""
        return values[self.name]


@dataclass(frozen=True)
class Whole:
    """The quotient rounded down of two sizes, or the smaller or larger of them."""

    kind: Literal["//", "min", "max"]
    left: int
    right: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Between which it lies."""
        corners = [self._of(one, other) for one, other in product(bounds(self.left), bounds(self.right))]
        return min(corners), max(corners)

    def _of(self, left: int, right: int) -> int:
        if self.kind == "//":
            return left // right
        return min(left, right) if self.kind == "min" else max(left, right)

    def text(self, notation: Notation) -> str:
        """As an expression."""
        left, right = text(self.left, notation), text(self.right, notation)
        if notation == "python":
            return f"({left} // {right})" if self.kind == "//" else f"{self.kind.capitalize()}({left}, {right})"
        if self.kind != "//":
            return f"({left} {'<' if self.kind == 'min' else '>'} {right} ? {left} : {right})"
        if bounds(self.left)[0] >= 0:
            return f"({left} / {right})"
        # Division in C rounds towards zero.
        return f"({left} >= 0 ? {left} / {right} : -(({right} - 1 - {left}) / {right}))"

    def at(self, values: Mapping[str, int]) -> int:
        """Its value in a call."""
        return self._of(at(self.left, values), at(self.right, values))


Atom = Free | Whole
Terms = tuple[tuple[tuple[Atom, ...], int], ...]
"""Products of atoms with their factors, in one order."""


class Extent:
    """A polynomial of free sizes that is no constant."""

    __slots__ = ("terms",)

    def __init__(self, terms: Terms) -> None:
        """Takes terms in their order, which `made` brings about."""
        self.terms = terms

    def __add__(self, other: int) -> int:
        return made([*self.terms, *_terms(other)])

    def __mul__(self, other: int) -> int:
        return made([((*a, *b), m * n) for (a, m), (b, n) in product(self.terms, _terms(other))])

    def __neg__(self) -> int:
        return self * -1

    def __sub__(self, other: int) -> int:
        return self + other * -1

    def __rsub__(self, other: int) -> int:
        return -self + other

    def __pow__(self, exponent: int) -> int:
        found = 1
        for _ in range(exponent):
            found *= cast(int, self)
        return found

    def __floordiv__(self, other: int) -> int:
        return quotient(cast(int, self), other)

    def __rfloordiv__(self, other: int) -> int:
        return quotient(other, cast(int, self))

    def __mod__(self, other: int) -> int:
        return self - (self // other) * other

    def __rmod__(self, other: int) -> int:
        return other - (other // self) * cast(int, self)

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extent) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.terms)

    def __bool__(self) -> bool:
        return True

    def __lt__(self, other: int) -> bool:
        low, high = bounds(other - self)
        if low <= 0 < high:
            raise OnlyARunTellsError(f"whether {self!r} is less than {other!r}")
        return low > 0

    def __gt__(self, other: int) -> bool:
        return -self < -other

    def __le__(self, other: int) -> bool:
        return not self > other

    def __ge__(self, other: int) -> bool:
        return not self < other

    def __index__(self) -> NoReturn:
        raise OnlyARunTellsError(f"the number {self!r}")

    __int__ = __float__ = __index__

    def __str__(self) -> str:
        return text(cast(int, self), "c")

    def __repr__(self) -> str:
        found = text(cast(int, self), "python")
        return found[1:-1] if found.startswith("(") else found


def made(terms: Sequence[tuple[tuple[Atom, ...], int]]) -> int:
    """The sum of terms: a number when nothing else is left, else an `Extent` in its place."""
    found: dict[tuple[Atom, ...], int] = {}
    for atoms, factor in terms:
        key = tuple(sorted(atoms, key=_rank))
        found[key] = found.get(key, 0) + factor
    kept = sorted(((key, factor) for key, factor in found.items() if factor), key=lambda term: _order(term[0]))
    if all(not key for key, _ in kept):
        return sum(factor for _, factor in kept)
    return cast(int, Extent(tuple(kept)))


def _rank(atom: Atom) -> str:
    return atom.text("python")


def _order(atoms: tuple[Atom, ...]) -> tuple[int, tuple[str, ...]]:
    return -len(atoms), tuple(map(_rank, atoms))


def _terms(size: int) -> Terms:
    if isinstance(size, Extent):
        return size.terms
    if not isinstance(size, SupportsIndex):
        raise OnlyARunTellsError(f"how to combine a size with {size!r}")
    return (((), size),)


def quotient(left: int, right: int) -> int:
    """`left / right` rounded down: another polynomial where that is exact."""
    exact = _divided(left, right)
    if exact is not None:
        return exact
    if bounds(right)[0] < 1:
        raise OnlyARunTellsError(f"the sign of {right!r}")
    if bounds(left)[1] <= 0:
        # The same number as -(n / d rounded up).
        return -quotient(right - 1 - left, right)
    return made([((Whole("//", left, right),), 1)])


def _divided(left: int, right: int) -> int | None:
    """The polynomial whose product with `right` is `left`; None where there is none."""
    (lead, factor), *_ = _terms(right)
    result, rest = 0, left
    for _ in range(len(_terms(left))):
        atoms, number = _terms(rest)[0]
        kept = list(atoms)
        if number % factor or any(kept.count(atom) < lead.count(atom) for atom in lead):
            return None
        for atom in lead:
            kept.remove(atom)
        step = made([(tuple(kept), number // factor)])
        result, rest = result + step, rest - step * right
        if not isinstance(rest, Extent) and rest == 0:
            return result
    return None


def bounds(size: int) -> tuple[int, int]:
    """Numbers between which a size lies in every call."""
    low = high = 0
    for atoms, factor in _terms(size):
        least, most = factor, factor
        for atom in atoms:
            corners = [one * other for one, other in product((least, most), atom.bounds)]
            least, most = min(corners), max(corners)
        low, high = low + least, high + most
    return low, high


def most(size: int) -> int:
    """The largest that a size becomes, for which memory is planned."""
    return bounds(size)[1]


def at(size: int, values: Mapping[str, int]) -> int:
    """The size in a call that chooses `values`."""
    total = 0
    for atoms, factor in _terms(size):
        for atom in atoms:
            factor *= atom.at(values)
        total += factor
    return total


def text(size: int, notation: Notation) -> str:
    """A size as an expression in C, or in the notation of `ir.parse_dim`; one that can stand beside any operator."""
    if not isinstance(size, Extent):
        return str(size)
    parts = []
    for atoms, factor in size.terms:
        names = [atom.text(notation) for atom in atoms]
        numbers = [str(abs(factor))] if abs(factor) != 1 or not atoms else []
        parts.append(("-" if factor < 0 else "+", " * ".join([*numbers, *names])))
    (sign, first), *others = parts
    if not others and sign == "+" and " * " not in first:
        return first
    return f"({'-' if sign == '-' else ''}{first}{''.join(f' {sign} {each}' for sign, each in others)})"


def lone(size: int) -> Free | None:
    """The free size that a size is, when it is nothing else."""
    terms = _terms(size)
    (atoms, factor), *others = terms
    alone = factor == 1 and len(atoms) == 1 and not others
    return atoms[0] if alone and isinstance(atoms[0], Free) else None


def free_names(size: int) -> set[str]:
    """Names of the free sizes behind a size."""
    found: set[str] = set()
    for atoms, _ in _terms(size):
        for atom in atoms:
            found |= {atom.name} if isinstance(atom, Free) else free_names(atom.left) | free_names(atom.right)
    return found


def extent_of(dim: Dim, sizes: Mapping[str, int]) -> int:
    """A dimension of a program, given the size of each of its symbols.

    Raises:
        OnlyARunTellsError: for an expression that has no form here.
    """
    if isinstance(dim, int):
        return dim
    if isinstance(dim, sympy.Integer):
        return int(dim)
    if isinstance(dim, sympy.Symbol):
        return sizes[str(dim)]
    parts = [extent_of(cast(Dim, part), sizes) for part in dim.args]
    if isinstance(dim, sympy.Add):
        return sum(parts)
    if isinstance(dim, sympy.Mul):
        return reduce(lambda one, other: one * other, parts)
    if isinstance(dim, sympy.Pow) and not isinstance(parts[1], Extent) and parts[1] > 0:
        return parts[0] ** parts[1]
    if isinstance(dim, FloorDiv | CleanDiv):
        return parts[0] // parts[1]
    if isinstance(dim, Mod | PythonMod):
        return parts[0] % parts[1]
    if isinstance(dim, Min | Max):
        return reduce(smaller if isinstance(dim, Min) else larger, parts)
    raise OnlyARunTellsError(f"the number {dim}")


def smaller(left: int, right: int) -> int:
    """The smaller of two sizes."""
    try:
        return min(left, right)
    except OnlyARunTellsError:
        return made([((Whole("min", left, right),), 1)])


def larger(left: int, right: int) -> int:
    """The larger of two sizes."""
    try:
        return max(left, right)
    except OnlyARunTellsError:
        return made([((Whole("max", left, right),), 1)])
