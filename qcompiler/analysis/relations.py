"""What the operators of a program demand of the labels of its values; collected in one walk, solved afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Flag, auto
from typing import Literal

import torch
from torch.fx.node import Argument

from qcompiler.analysis import labels as lb
from qcompiler.analysis.groups import Action
from qcompiler.ir.program import Node, Program

Role = Literal["writer", "reader", "multiplier"]


class World(Flag):
    """Two systems over the same labels: matrices (rotations and permutations), and scales."""

    MATRIX = auto()
    SCALE = auto()
    BOTH = MATRIX | SCALE


ROTATIONS = frozenset({Action.GENERAL, Action.ORTHOGONAL, Action.ORTHOGONAL_KEEPING_MEAN, Action.SIGNED_PERMUTATION})
REORDERINGS = frozenset({Action.PERMUTATION})
SCALES = frozenset({Action.DIAGONAL})
EVERYTHING = ROTATIONS | REORDERINGS | SCALES

Rank = Literal["general", "orthogonal", "keeping_mean"]


@dataclass(frozen=True, eq=False)
class Restriction:
    """Labels on which some actions are refused.

    Args:
        codes: int64 [count].
        actions: what is refused.
        node: the operator that refuses.
        reason: one line.
    """

    codes: torch.Tensor
    actions: frozenset[Action]
    node: Node
    reason: str


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that a matrix must map onto themselves.

    Args:
        codes: int64 [rows, width].
        rank: the largest group of matrices that the operator commutes with.
        kind: what the operator does with a row.
        node: the operator.
    """

    codes: torch.Tensor
    rank: Rank
    kind: Literal["write", "read", "contract", "norm", "layer_norm", "other"]
    node: Node


@dataclass(frozen=True, eq=False)
class Product:
    """`z = x * y`, elementwise: their scales add up. Codes int64 [count], aligned."""

    z: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    node: Node


@dataclass(frozen=True, eq=False)
class Mark:
    """A place where a constant meets labels.

    Args:
        node: the operator that takes the constant.
        argument: by parameter name.
        role: see `groups`.
        codes: int64, shaped like the constant where `axis` is None, else [width] for that axis.
        axis: of the constant.
        groups: see `groups.Place`.
        worlds: where it counts.
        constant: the parameter, None where there is none.
    """

    node: Node
    argument: str
    role: Role
    codes: torch.Tensor
    axis: int | None
    groups: int = 1
    worlds: World = World.BOTH
    constant: Node | None = None


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm or a constant gain: what it takes in and gives out.

    Args:
        node: the operator.
        taken: codes [width] of its result, in order.
        gain: whether it multiplies by anything but one, or adds anything.
        shift: whether it adds anything but zero.
        multiplies: whether it is nothing but a product with a constant, so that the constant may also go to its writer.
    """

    node: Node
    taken: torch.Tensor
    gain: bool
    shift: bool
    multiplies: bool = False


@dataclass(eq=False)
class Relations:
    """The labels of all values and what is known of them.

    Args:
        program: stage canonical.
        count: number of labels so far; 0 is that of what may not change.
        values: labels by node, of nodes that depend on an input.
        parts: labels of the results of nodes with several, by node and position.
        reads: codes [width] that each operator with a weight takes in.
        multiplied: codes of constants that multiply.
    """

    program: Program
    count: int = 1
    values: dict[Node, torch.Tensor] = field(default_factory=dict)
    parts: dict[tuple[Node, int], torch.Tensor] = field(default_factory=dict)
    ties: dict[World, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)
    restrictions: list[Restriction] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    reads: dict[Node, torch.Tensor] = field(default_factory=dict)
    multiplied: list[torch.Tensor] = field(default_factory=list)
    _bound: dict[Node, dict[str, Argument]] = field(default_factory=dict)

    def bind(self, node: Node) -> dict[str, Argument]:
        """Arguments of a call node by name, as `Program.bind` tells them."""
        if node not in self._bound:
            self._bound[node] = self.program.bind(node)
        return self._bound[node]

    def fresh(self, width: int) -> torch.Tensor:
        """Codes of new labels."""
        codes = torch.arange(self.count, self.count + width) * 2
        self.count += width
        return codes

    def tie(self, first: torch.Tensor, second: torch.Tensor, node: Node, worlds: World = World.BOTH) -> None:
        """Equal transforms on two values that broadcast; what is tied to a fixed value is fixed itself."""
        if first is second:
            return
        if lb.is_fixed(first) or lb.is_fixed(second):
            for codes in (first, second):
                self.restrict(codes, _tied(worlds), node, "meets a value that may not change")
            return
        left, right = torch.broadcast_tensors(lb.core(first), lb.core(second))
        left, right = left.reshape(-1), right.reshape(-1)
        apart = left != right
        left, right = left[apart], right[apart]
        still = (left < 2) | (right < 2)
        if bool(still.any()):
            self.restrict(
                torch.cat([left[still], right[still]]), _tied(worlds), node, "meets a value that may not change"
            )
            left, right = left[~still], right[~still]
        if left.numel():
            self.ties.setdefault(worlds, []).append((left, right))

    def restrict(self, codes: torch.Tensor, actions: frozenset[Action], node: Node, reason: str) -> None:
        """Refuses actions on all labels of a value."""
        if lb.is_fixed(codes):
            return
        found = lb.core(codes).reshape(-1)
        found = found[found > 1]
        if found.numel():
            self.restrictions.append(Restriction(found, actions, node, reason))

    def freeze(self, codes: torch.Tensor, node: Node, reason: str) -> None:
        """Refuses every action."""
        self.restrict(codes, EVERYTHING, node, reason)

    def close(self, codes: torch.Tensor, axis: int, rank: Rank, node: Node, kind: str = "other") -> None:
        """Matrices must map each row along `axis` onto itself."""
        if lb.is_fixed(codes):
            return
        rows = lb.core(codes, (axis,)).movedim(axis, -1)
        self.rows.append(Rows(rows.reshape(-1, rows.shape[-1]), rank, kind, node))  # pyright: ignore[reportArgumentType]

    def row(self, codes: torch.Tensor, axis: int, node: Node) -> torch.Tensor:
        """Codes [width] along an axis, those of all other positions tied to them."""
        small = lb.core(codes, (axis,)).movedim(axis, -1)
        flat = small.reshape(-1, small.shape[-1])
        if flat.shape[0] > 1:
            self.tie(flat[1:], flat[:1], node)
        return flat[0]

    def mark(self, mark: Mark) -> None:
        """Notes where a constant meets labels."""
        if mark.constant is None:
            held = self.bind(mark.node).get(mark.argument)
            mark = replace(mark, constant=held if isinstance(held, Node) else None)
        self.marks.append(mark)


def _tied(worlds: World) -> frozenset[Action]:
    refused = EVERYTHING if World.MATRIX in worlds else SCALES
    return refused if World.SCALE in worlds else refused - SCALES
