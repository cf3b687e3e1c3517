"""From labels back to the graph: the constants and values in which a class of labels lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from qcompiler.analysis import labels as lb
from qcompiler.analysis.blocks import Occurrence, Root, Shape, Spot, spots
from qcompiler.analysis.groups import Place, Port, Site
from qcompiler.analysis.relations import Mark, Relations, Role, World
from qcompiler.ir.program import Node


@dataclass(frozen=True, eq=False)
class Placed:
    """A mark with its codes along one axis of its constant.

    Args:
        mark: see `Mark`.
        codes: int64 [width].
        axis: of the constant.
        role: in the system that is solved.
    """

    mark: Mark
    codes: torch.Tensor
    axis: int
    role: Role


def placed_marks(relations: Relations, root: Root, world: World) -> tuple[list[Placed], list[Mark]]:
    """Marks that count in a system, and those whose constant would have to change along several axes."""
    multiplied = torch.zeros(relations.count, dtype=torch.bool)
    if relations.multiplied:
        multiplied[torch.cat(relations.multiplied) >> 1] = True
    found, spread = [], []
    for mark in relations.marks:
        if world not in mark.worlds or not mark.codes.numel():
            continue
        axis, codes = mark.axis, mark.codes
        if axis is None:
            axis, codes = _one_axis(root, mark.codes)
            if axis is None:
                spread.append(mark)
                continue
        scales = world is World.SCALE
        role = "multiplier" if not scales and bool(multiplied[codes >> 1].any()) else mark.role
        found.append(Placed(mark, codes, axis, role))
    return found, spread


def _one_axis(root: Root, codes: torch.Tensor) -> tuple[int | None, torch.Tensor]:
    """The only axis along which roots differ."""
    of = root.of[codes] * 2 + root.parity[codes].long()
    moving = [
        axis
        for axis in range(codes.dim())
        if codes.shape[axis] > 1 and bool((of.narrow(axis, 1, codes.shape[axis] - 1) != of.narrow(axis, 0, 1)).any())
    ]
    if len(moving) > 1:
        return None, codes
    axis = moving[0] if moving else max(range(codes.dim()), key=lambda item: codes.shape[item], default=0)
    if not codes.dim():
        return 0, codes.view(1)
    return axis, codes.movedim(axis, 0).reshape(codes.shape[axis], -1)[:, 0]


@dataclass(eq=False)
class Values:
    """Values; those with equal labels are looked at once."""

    occurrences: list[Occurrence] = field(default_factory=list)
    shapes: list[list[Shape]] = field(default_factory=list)
    _known: dict[tuple[object, ...], int] = field(default_factory=dict)

    def add(self, node: Node, codes: torch.Tensor) -> None:
        """Takes a value in."""
        if lb.is_fixed(codes):
            return
        axes = [axis for axis in lb.varying(codes)]
        if not axes:
            return
        small = lb.core(codes)
        axis, across = axes[-1], axes[0] if len(axes) == 2 else None
        # Reshaped values hold the same labels in the same order.
        whole = small.is_contiguous()
        key = (small.data_ptr(), small.numel()) if whole else (small.data_ptr(), tuple(small.shape), small.stride())
        if key not in self._known:
            self._known[key] = len(self.occurrences)
            self.occurrences.append(Occurrence(len(self.occurrences), small.reshape(-1)))
            self.shapes.append([])
        self.shapes[self._known[key]].append(Shape(node, axis, across, codes.shape[axis] if len(axes) <= 2 else 0))


def values_of(relations: Relations) -> Values:
    """All values of a program."""
    found = Values()
    for node, codes in relations.values.items():
        found.add(node, codes)
    return found


class Where:
    """Where classes of labels lie: in constants, and, once somebody asks, in values.

    Args:
        kind: int64 [2 * labels]: class of each root, -1 for none.
        root: of the codes.
        marks: constants.
        relations: of the program.
        cluster: see `blocks.spots`.
    """

    def __init__(
        self,
        kind: torch.Tensor,
        root: Root,
        marks: Sequence[Placed],
        relations: Relations,
        cluster: torch.Tensor | None = None,
    ) -> None:
        self.marks = marks
        self._kind, self._root, self._relations, self._cluster = kind, root, relations, cluster
        self._places = [Occurrence(number, mark.codes) for number, mark in enumerate(marks)]
        self.sites: Mapping[int, list[Spot]] = spots(kind, root, self._places, cluster)

    @cached_property
    def values(self) -> Values:
        """The values of the program."""
        return values_of(self._relations)

    @cached_property
    def ports(self) -> Mapping[int, list[Spot]]:
        """By class: number of the value, and the spot."""
        count = len(self._places)
        # Values come behind the constants, so that members are ordered by the first constant.
        shifted = [Occurrence(count + item.key, item.codes) for item in self.values.occurrences]
        found = spots(self._kind, self._root, [*self._places, *shifted], self._cluster)
        return {
            number: [Spot(spot.key - count, spot.dual, spot.index) for spot in items if spot.key >= count]
            for number, items in found.items()
        }


def signature(where: Where, number: int, size: int) -> tuple[object, ...]:
    """What classes have in common that one vector of transforms acts on: sites in order, dual or not, copies."""
    spots_of = where.sites.get(number, [])
    flip = spots_of[0].dual if spots_of else False
    return (size, *((spot.key, spot.dual != flip, spot.index.shape[0]) for spot in spots_of))


def site(where: Where, parts: Sequence[tuple[int, Spot]], flip: bool, exponent: int = 0) -> Site:
    """The site of a group: rows of all its fibres in one constant."""
    mark = where.marks[parts[0][1].key]
    index = torch.cat([spot.index for _, spot in parts])
    fibre = torch.tensor([number for number, spot in parts for _ in range(spot.index.shape[0])])
    dual = parts[0][1].dual != flip
    place = Place(mark.axis, index, fibre, mark.mark.groups)
    constant = mark.mark.constant
    power = exponent * (-1 if dual else 1) if exponent else 1
    return Site(mark.mark.node, mark.mark.argument, mark.role, place, dual and not exponent, power, constant)


def ports(
    where: Where, numbers: Sequence[int], flips: Sequence[bool], exponents: Sequence[int]
) -> tuple[tuple[Port, ...], tuple[Node, ...]]:
    """The values in which classes lie, in graph order; several classes are fibres of one port.

    Args:
        where: of the classes.
        numbers: classes.
        flips: whether parity is turned, by class.
        exponents: of each class in a scale group; 0 in a matrix group.

    Returns:
        the ports, and the values in which classes lie on several axes, so that no port tells them.
    """
    found: dict[tuple[int, bool, int], list[tuple[int, Spot]]] = {}
    for fibre, (number, flip, exponent) in enumerate(zip(numbers, flips, exponents, strict=True)):
        for spot in where.ports.get(number, []):
            dual = spot.dual != flip
            power = exponent * (-1 if dual else 1) if exponent else 1
            found.setdefault((spot.key, dual and not exponent, power), []).append((0 if exponent else fibre, spot))
    told: list[Port] = []
    hidden: dict[Node, None] = {}
    for (key, dual, power), parts in found.items():
        index = torch.cat([spot.index for _, spot in parts])
        fibre = torch.tensor([number for number, spot in parts for _ in range(spot.index.shape[0])])
        whole = all(spot.index.shape[0] for _, spot in parts)
        places: dict[tuple[int, int | None, int], Place | None] = {}
        for shape in where.values.shapes[key]:
            if shape.key not in places:
                places[shape.key] = shape.place(index, fibre)
            place = places[shape.key]
            if place is not None:
                told.append(Port(shape.node, place, dual, power))
            if place is None or not whole:
                hidden[shape.node] = None
    return tuple(told), tuple(hidden)
