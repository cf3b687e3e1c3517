"""Symmetry groups of a program: where an invertible change of basis may act on an axis and be undone by neighbours.

A *port* is one axis of one value, or some coordinates of it. When a transform T [size, size] acts on a group, every
value port of the group holds `v · T` instead of `v` (its coordinates taken as a row vector), a dual port `v · T^-T`.
The writers' constants are multiplied so that they yield the new values, the readers' so that they undo them; the values
outside the group do not change.

| site          | constant c, its coordinates i in rows    | becomes                                       |
|---------------|------------------------------------------|-----------------------------------------------|
| writer        | rows of a weight, bias, table, constant  | `Tᵀ c`, that is `c' = c · T` on the site's axis |
| reader        | columns of a weight                      | `c · T^-T` on the site's axis                 |
| multiplier    | gain of one number per coordinate        | permuted by a permutation, divided by nothing |

Dual sites exchange T and `T^-T`. A scale group acts with `T = diag(s ** exponent)`, the exponent told by port and site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import torch

from qcompiler.ir.program import Node


class Action(StrEnum):
    """A group of matrices that may act on the coordinates of a port."""

    GENERAL = "general"
    ORTHOGONAL = "orthogonal"
    ORTHOGONAL_KEEPING_MEAN = "orthogonal_keeping_mean"
    DIAGONAL = "diagonal"
    SIGNED_PERMUTATION = "signed_permutation"
    PERMUTATION = "permutation"
    SHIFT = "shift"


@dataclass(frozen=True, eq=False)
class Place:
    """Coordinates on one axis of a tensor.

    Args:
        axis: of the tensor, counted from the front.
        index: int64 [copies, size]: row by row where the coordinates of the group lie on that axis.
        fibre: int64 [copies]: which of the group's transforms acts on each row; all zero where there is one transform.
        groups: of a grouped convolution. Where it is not 1, the constant [groups * rows, width, ...] is looked at as
            [rows, groups * width, ...] and `axis` is 1: coordinate `g * width + j` is column j of the rows of group g.
            `gathered` and `scattered` go from one to the other.
        along: for values only: another axis, and int64 [copies]: row c of the index holds at that position of it.
    """

    axis: int
    index: torch.Tensor
    fibre: torch.Tensor
    groups: int = 1
    along: tuple[int, torch.Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Port:
    """Coordinates of a value.

    Args:
        node: whose value it is.
        place: which coordinates.
        dual: carries `T^-T` instead of T (the other side of a contraction).
        exponent: of the scale in a scale group.
    """

    node: Node
    place: Place
    dual: bool = False
    exponent: int = 1


@dataclass(frozen=True, eq=False)
class Site:
    """Where a constant meets the group.

    Args:
        node: the operator that takes the constant.
        argument: by its parameter name: `weight`, `bias`, `other`, ... An operator that takes a list of values may hold
            several constants; `constant` tells which.
        role: see the module's table.
        place: coordinates on an axis of the constant. The constant of a norm that has no gain yet is as long as the
            normalized axis. A single number (a Python number, or a parameter of one element) must first become a
            tensor that broadcasts: `axis` is then that of the operator's result.
        constant: the parameter's node; None for a number and for a gain that is not there.
        dual: as in `Port`.
        exponent: as in `Port`.
    """

    node: Node
    argument: str
    role: Literal["writer", "reader", "multiplier"]
    place: Place
    dual: bool = False
    exponent: int = 1
    constant: Node | None = None


@dataclass(frozen=True)
class Blocker:
    """Why an action is refused.

    Args:
        actions: what may no longer act.
        node: name of the operator that forbids it.
        reason: one line.
    """

    actions: frozenset[Action]
    node: str
    reason: str


Located = Callable[[], tuple[tuple[Port, ...], tuple[Node, ...]]]


def nowhere() -> tuple[tuple[Port, ...], tuple[Node, ...]]:
    """No values."""
    return (), ()


@dataclass(frozen=True, eq=False)
class SymmetryGroup:
    """A maximal set of ports that one transform can act on together.

    Args:
        name: `s0`, `s1`, ... in graph order; the same for the same program.
        size: coordinates per fibre.
        fibres: number of independent transforms, such as one per key-value head; 1 when all copies share one.
        actions: what may act, each with everything smaller than it.
        sites: writers, readers and multipliers. A parameter that several operators take is in several sites.
        located: finds the values that change; asked for when they are first looked at.
        blockers: what may not act, and why.
        folded_gains: norms and constant gains whose gain (and shift) must first be folded into all of their readers or
            their writer.
        centred_norms: layer norms that become root-mean-square norms once all writers give rows of mean zero.
    """

    name: str
    size: int
    fibres: int
    actions: frozenset[Action]
    sites: tuple[Site, ...]
    located: Located = nowhere
    blockers: tuple[Blocker, ...] = ()
    folded_gains: tuple[Node, ...] = ()
    centred_norms: tuple[Node, ...] = ()

    @property
    def ports(self) -> tuple[Port, ...]:
        """The values that change."""
        return self.located()[0]

    @property
    def scattered(self) -> tuple[Node, ...]:
        """Values that change too, but whose coordinates lie on several axes, so that no port tells them."""
        return self.located()[1]

    @property
    def writers(self) -> tuple[Site, ...]:
        """Sites that write the group's values."""
        return tuple(site for site in self.sites if site.role == "writer")

    @property
    def readers(self) -> tuple[Site, ...]:
        """Sites that read them."""
        return tuple(site for site in self.sites if site.role == "reader")


def gathered(constant: torch.Tensor, groups: int) -> torch.Tensor:
    """A grouped weight [groups * rows, width, ...] as [rows, groups * width, ...]; see `Place`."""
    rows, width = constant.shape[0] // groups, constant.shape[1]
    parts = constant.reshape(groups, rows, *constant.shape[1:])
    return parts.movedim(0, 1).reshape(rows, groups * width, *constant.shape[2:])


def scattered(constant: torch.Tensor, groups: int) -> torch.Tensor:
    """What `gathered` was given."""
    rows, width = constant.shape[0], constant.shape[1] // groups
    parts = constant.reshape(rows, groups, width, *constant.shape[2:])
    return parts.movedim(1, 0).reshape(groups * rows, width, *constant.shape[2:])
